"""How to get a report's figures again: commands, versions, hashes, seeds, machine."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.manifest import Plan
from lacoot_deploy.reports.records import Fact, Network, Reproduction, Training
from lacoot_deploy.workflow.commands import collapse_words, data_record, data_words, heal_words
from lacoot_deploy.workflow.report_inputs import Cast

if TYPE_CHECKING:
    from lacoot_deploy.bench.result import BenchResult
    from lacoot_deploy.runtime.compare import CompareResult

PACKAGES = ("lacoot-deploy", "onnxruntime-gpu", "onnxruntime", "onnx", "torch", "numpy")


def reproduction_of(
    parts: Cast,
    networks: Sequence[Network],
    trainings: Sequence[Training],
    plan: Plan | None,
    comparison: CompareResult | None,
    bench: BenchResult | None,
    data: DataOptions | None,
) -> Reproduction:
    """Everything that it takes to get the same again.

    Args:
        parts: The networks.
        networks: What the report says of them.
        trainings: Training runs.
        plan: The plan behind the collapsed network, where it is known.
        comparison: Where its accuracy was measured.
        bench: Where its latency was measured.
        data: What it was compared on, where that was done here.
    """
    return Reproduction(
        commands=_commands(parts, trainings, plan, comparison, bench, data),
        versions=_versions(parts, bench),
        hashes=_hashes(parts, networks, plan),
        seeds=_seeds(trainings, parts, bench, data),
        machine=_machine(bench),
    )


def _commands(
    parts: Cast,
    trainings: Sequence[Training],
    plan: Plan | None,
    comparison: CompareResult | None,
    bench: BenchResult | None,
    data: DataOptions | None,
) -> list[str]:
    quote = shlex.quote
    lines = []
    for training in trainings:
        lines.append(f"lacoot-deploy train RECIPE.toml -o {quote(training.name)}    # the recipe is below")
    dense = "dense.onnx" if parts.dense is None else _shown(parts.dense.path, parts.dense.run)
    short = "collapsed.onnx" if parts.short is None else parts.short.path.name
    if parts.short is None or parts.short.run is None:
        manifest = None if parts.short is None else parts.short.opened.manifest
        healed = manifest.healed if manifest is not None else []
        made = "cut.onnx" if healed else short
        steps = [["collapse", dense, *_plan_words(parts, plan), "-o", made]]
        for number, record in enumerate(healed, 1):
            target = short if number == len(healed) else f"healed{number}.onnx"
            steps.append(["heal", dense, made, *heal_words(record), "-o", target])
            made = target
        lines += [" ".join(quote(word) for word in ("lacoot-deploy", *words)) for words in steps]
    if data is not None:
        words = ["lacoot-deploy", "compare", dense, short, *data_words(data_record(data))]
        seed = f" --seed {data.seed}" if data.limit is not None or data.seed else ""
        lines.append(" ".join(quote(word) for word in words) + seed)
    elif comparison is not None:
        lines.append(f"lacoot-deploy compare {quote(dense)} {quote(short)} --data DATA")
    if bench is not None:
        environment = bench.environment
        threads = "" if environment.threads is None else f" --threads {environment.threads}"
        lines.append(
            f"lacoot-deploy bench {quote(dense)} {quote(short)} --batch {environment.batch} "
            f"--provider {environment.provider} --rounds {environment.rounds} --seed {environment.seed}{threads}"
        )
    return lines


def _shown(path: Path, run: Path | None) -> str:
    return path.name if run is None else f"{run.name}/{path.name}"


def _plan_words(parts: Cast, plan: Plan | None) -> list[str]:
    """Options of `collapse` that give the plan again; none where the dense file recommends it."""
    recommended = None if parts.dense is None else parts.dense.recommended
    if plan is not None and recommended is not None and recommended.digest() == plan.digest():
        return []
    words = None if plan is None or plan.options is None else collapse_words(plan.options)
    return ["--plan", "plan.json"] if words is None else words


def _versions(parts: Cast, bench: BenchResult | None) -> list[Fact]:
    facts = []
    for what, model in (("dense network made by", parts.dense), ("collapsed network made by", parts.short)):
        manifest = None if model is None else model.opened.manifest
        if manifest is not None and manifest.producer:
            facts.append(Fact(name=what, value=manifest.producer))
    facts.append(Fact(name="Python of this report", value=platform.python_version()))
    for package in PACKAGES:
        try:
            facts.append(Fact(name=package, value=importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    if bench is not None:
        facts.append(Fact(name="ONNX Runtime of the benchmark", value=bench.environment.onnxruntime))
    return facts


def _hashes(parts: Cast, networks: Sequence[Network], plan: Plan | None) -> list[Fact]:
    facts = []
    for network in networks:
        if network.sha256 is not None:
            facts.append(Fact(name=f"{network.name}, file (SHA-256)", value=network.sha256))
        facts.append(Fact(name=f"{network.name}, graph", value=network.fingerprint))
    if plan is not None:
        facts.append(Fact(name="plan", value=plan.digest()))
    else:
        facts += [Fact(name="plan", value=record.plan_sha256) for record in parts.records]
    source = parts.dense.opened.manifest.source if parts.dense and parts.dense.opened.manifest else None
    if source is not None and source.checkpoint_sha256:
        facts.append(Fact(name="checkpoint (SHA-256)", value=source.checkpoint_sha256))
    return facts


def _seeds(
    trainings: Sequence[Training], parts: Cast, bench: BenchResult | None, data: DataOptions | None
) -> list[Fact]:
    facts: dict[str, Any] = {}
    for training in trainings:
        if "seed" in training.recipe:
            facts[f"training of {training.name}"] = training.recipe["seed"]
    manifest = parts.dense.opened.manifest if parts.dense is not None else None
    seeds = {d.seed for block in (manifest.blocks if manifest else []) for d in block.distances.values()}
    seeds.discard(None)
    if seeds:
        facts["directions of the distances"] = ", ".join(str(seed) for seed in sorted(seeds, key=str))
    if data is not None:
        facts["choice of samples"] = data.seed
    if bench is not None:
        facts["orders and inputs of the benchmark"] = bench.environment.seed
    return [Fact(name=name, value=str(value)) for name, value in facts.items()]


def _machine(bench: BenchResult | None) -> list[Fact]:
    if bench is None:
        return []
    environment = bench.environment
    facts = [
        ("processor", f"{environment.cpu}, {environment.affinity} of {environment.cpus} processors usable"),
        ("GPU", environment.gpu),
        ("system", environment.system),
        ("provider", environment.provider),
        ("threads", "ONNX Runtime's choice" if environment.threads is None else str(environment.threads)),
        ("batch", str(environment.batch)),
        ("inputs", environment.inputs),
        (
            "load before and after",
            None
            if environment.load_before is None or environment.load_after is None
            else f"{environment.load_before:.1f} and {environment.load_after:.1f}",
        ),
        ("rounds of fresh sessions", str(environment.rounds)),
    ]
    return [Fact(name=name, value=value) for name, value in facts if value]
