"""The stages of cuda_figures.py, each of which can be run alone.

    python samples/benchmarks/cuda_stages.py latency --device cuda --seconds 180 -o latency.json

Figures are written one by one under the name of their case, so that an end at any moment leaves those that were taken.
A case that fails has the reason in place of a figure; the stage ends with exit code 1 then, after all other cases.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common

NETWORKS = ("resnet50", "resnet18", "vit_b_16", "mobilenet_v2", "swin_t")
RECIPE = common.REPOSITORY / "samples" / "recipes" / "resnet18-cifar10.toml"


@dataclass
class Job:
    """What a stage is to do and where it notes what it finds.

    Attributes:
        device: `cuda` or `cpu`.
        small: Small networks and few rounds.
        seconds: Time that the stage has.
        data: A data source; None for the digits.
        models: Folder of networks exported beforehand.
        folder: Folder of what is trained.
        output: The document of figures.
        figures: The figures by case.
        failed: Cases that failed.
    """

    device: str
    small: bool
    seconds: float
    data: str | None
    models: Path | None
    folder: Path
    output: Path
    figures: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.began)

    def take(self, case: str, measure: Callable[[], Any], needs: float = 0.0) -> None:
        """Measure a case and write its figure, or why there is none; it is not begun in less time than it needs."""
        if self.left < needs:
            self.note(case, {"not reached": f"{self.left:.0f} s left, {needs:.0f} s needed"})
            return
        try:
            self.note(case, measure())
        except Exception as error:  # whatever it is, the other cases are worth having
            self.failed.append(case)
            self.note(case, {"failed": f"{type(error).__name__}: {error}"[:600]})

    def note(self, case: str, figure: Any) -> None:
        """Write a figure down."""
        self.figures[case] = figure
        print(f"{case}: {json.dumps(figure, default=str)[:200]}", flush=True)
        common.write(self.output, self.figures)


def ready(job: Job) -> None:
    """What works here: doctor, the provider that really runs a model, the tests that need a GPU."""
    import lacoot_deploy as ld

    job.take("doctor", lambda: ld.doctor().model_dump(mode="json"))
    job.take("provider used", lambda: provider_used(job))
    job.take("gpu tests", gpu_tests, needs=0 if job.small else 10)


def provider_used(job: Job) -> dict[str, Any]:
    """Where the nodes of a small network run when the device is asked for."""
    from lacoot_deploy.runtime.options import Runtime
    from lacoot_deploy.runtime.sessions import open_session

    session = open_session(dense_network("resnet18", job), Runtime(provider=job.device))
    nodes: dict[str, int] = {}
    for placed in session.placement:
        nodes[placed.provider] = nodes.get(placed.provider, 0) + 1
    return {"provider": session.provider, "why": session.why, "nodes": nodes}


def gpu_tests() -> dict[str, Any]:
    """How the tests marked `gpu` end; those files alone are collected."""
    tests = common.REPOSITORY / "tests"
    files = [str(p) for p in sorted(tests.rglob("test_*.py")) if "mark.gpu" in p.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=common.REPOSITORY, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1:]
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(last)}: {done.stdout[-400:]}")
    return {"files": len(files), "outcome": last}


def dense_network(name: str, job: Job) -> Path:
    """The ONNX file of an untrained network: exported beforehand, or now."""
    if job.models is not None and (job.models / f"{name}.onnx").is_file():
        return job.models / f"{name}.onnx"
    path = job.folder / "networks" / f"{name}{'.small' if job.small else ''}.onnx"
    if not path.is_file():
        export_network(name, path, small=job.small)
    return path


def export_network(name: str, path: Path, *, small: bool = False) -> None:
    """Export one of torchvision's networks, or for `small` the network of the demo in its place."""
    import onnx
    import torch

    from lacoot_deploy.training.export import to_onnx

    torch.manual_seed(0)
    if small:
        from lacoot_deploy.training.models import build_model
        from lacoot_deploy.training.recipe import Recipe

        model, example = (
            build_model(Recipe(model="digits-resnet"), classes=10, channels=1),
            torch.randn(2, 1, 8, 8),
        )
    else:
        import torchvision

        model, example = getattr(torchvision.models, name)(), torch.randn(2, 3, 224, 224)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(model, example), str(path))


@dataclass(frozen=True)
class Case:
    """One way to run a network: which part of its blocks is gone, batch, type, TF32."""

    network: str
    share: str
    batch: int
    dtype: str
    tf32: bool

    @property
    def name(self) -> str:
        """How it is called in the document."""
        rounded = " tf32" if self.tf32 else ""
        return f"{self.network} {self.share} batch {self.batch} {self.dtype}{rounded}"


def cases(job: Job) -> Iterator[Case]:
    """What is measured, in the order of its worth: every network once before any a second time."""
    ways = [(1, "float32", False), (64, "float16", False), (64, "float32", True), (1, "float16", False),
            (64, "float32", False), (1, "float32", True)]  # fmt: skip
    if job.device == "cpu":
        ways = [(1, "float32", False)]
    networks = NETWORKS[:1] if job.small else NETWORKS
    for share, (batch, dtype, tf32) in itertools.product(("half", "quarter"), ways):
        for network in networks:
            yield Case(network, share, batch, dtype, tf32)


def latency(job: Job) -> None:
    """Dense against collapsed: speed-up with interval, what the blocks promised, what of it was realised."""
    pairs = Pairs(job)
    for case in cases(job):
        job.take(case.name, lambda case=case: pairs.measure(case, job.device), needs=0 if job.small else 12)


def tensorrt(job: Job) -> None:
    """The same on TensorRT where its provider loads; on the CPU there is nothing to load."""
    import lacoot_deploy as ld

    found = {provider.name: provider for provider in ld.doctor().providers}
    provider = found.get("tensorrt")
    if provider is None or not provider.works:
        job.note("provider", {"works": False, "why": "not listed" if provider is None else provider.problem})
        return
    pairs = Pairs(job)
    for network in NETWORKS:
        case = Case(network, "half", 1, "float16", False)
        job.take(case.name, lambda case=case: pairs.measure(case, "tensorrt"), needs=20)


class Pairs:
    """Dense and collapsed networks, and what their blocks take, made once for all cases."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.blocks: dict[tuple[str, str], tuple[Path, list[Any]]] = {}
        self.taken: dict[tuple[Any, ...], Any] = {}

    def dense(self, network: str, dtype: str) -> tuple[Path, list[Any]]:
        """A network's file in one type, and the blocks of it that can be bypassed."""
        if (network, dtype) not in self.blocks:
            import latency_table
            import onnx

            from lacoot_deploy.graph.discovery import find_blocks
            from lacoot_deploy.graph.model.blocks import Form

            path = dense_network(network, self.job)
            model = onnx.load(str(path))
            if dtype == "float16":
                model = latency_table.as_float16(model)
                path = self.job.folder / "networks" / f"{network}.float16.onnx"
                path.parent.mkdir(parents=True, exist_ok=True)
                onnx.save(model, str(path))
            able = [block for block in find_blocks(model) if block.forms[:1] == (Form.BYPASS,)]
            self.blocks[network, dtype] = path, able
        return self.blocks[network, dtype]

    def measure(self, case: Case, provider: str) -> dict[str, Any]:
        """The figures of one case."""
        import latency_table
        import onnx

        from lacoot_deploy import BenchOptions, Runtime
        from lacoot_deploy.graph.model.blocks import Form
        from lacoot_deploy.graph.surgery.collapse import collapse_blocks
        from lacoot_deploy.graph.surgery.cuts import Cut

        dense, able = self.dense(case.network, case.dtype)
        chosen = latency_table.evenly(able, max(1, round(latency_table.SHARES[case.share] * len(able))))
        short = self.job.folder / "networks" / f"{case.network}.{case.dtype}.{case.share}.onnx"
        short.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(collapse_blocks(onnx.load(str(dense)), [Cut(b, Form.BYPASS) for b in chosen]), str(short))
        options = BenchOptions(
            batch=case.batch,
            use_tf32=case.tf32,
            min_time=0.2 if self.job.small else 2.0,
            rounds=3 if self.job.small else None,
            memory=False,
        )
        runtime = Runtime(provider=provider)
        key = (case.network, case.batch, case.dtype, case.tf32, provider)
        if key not in self.taken:
            self.taken[key] = latency_table.block_latencies(dense, able, options, runtime=runtime)
        result = latency_table.bench(dense, short, options, runtime=runtime)
        kept = latency_table.realised(self.taken[key], [block.name for block in chosen], result)
        return {
            "removed": [block.name for block in chosen],
            "collapsible": len(able),
            "dense_ms": result.a.p50_ms,
            "collapsed_ms": result.b.p50_ms,
            "speedup": result.speedup,
            "ci95": result.ci95,
            "verdict": result.verdict,
            "expected_speedup": kept.expected_speedup,
            "realised": kept.share,
            "variants": {name: variant.model_dump() for name, variant in result.variants.items()},
            "cpu_nodes": result.a.cpu_nodes,
            "provider": result.environment.provider,
            "io_binding": result.environment.io_binding,
            "warnings": result.warnings,
        }


def step(job: Job) -> None:
    """What the penalty adds to a step, in float32 and bfloat16, plain and compiled; the distance beside POT's."""
    import training_step

    little = ["--model", "resnet20", "--batch", "8", "--rounds", "2"]
    usual = ["--rounds", "20"]
    for precision, more in (("fp32", []), ("bf16", []), ("bf16", ["--compile"]), ("fp32", ["--compile"])):
        if job.device == "cpu" and (more or precision == "bf16"):
            continue
        words = ["--device", job.device, "--precision", precision, *(little if job.small else usual), *more]
        given = training_step.parser().parse_args(words)
        name = f"step {precision}{' compiled' if more else ''}"
        job.take(name, lambda given=given: training_step.figures(given), needs=0 if job.small else 15)
    job.take("distance beside POT", lambda: distance(job), needs=0 if job.small else 10)


def distance(job: Job) -> dict[str, Any]:
    """Forward and backward of the distance against POT's, and the memory that both keep."""
    import distance_speed
    import torch

    if job.small:
        distance_speed.SHAPES = [(16, 1024)]
    return distance_speed.measure_speed(torch.device(job.device), 2 if job.small else 40)


def trained(job: Job) -> Path:
    """The folder of a network trained on the digits, made once."""
    import lacoot_deploy as ld

    folder = job.folder / f"digits-{job.device}{'-small' if job.small else ''}"
    if not (folder / "model.onnx").is_file():
        few = (
            ("epochs=2", "limit=800", "batch_size=32", "warmup=0.2", "penalty=1")
            if job.small
            else ("epochs=15",)
        )
        ld.train(None, folder, overrides=(*few, f"device={job.device}", "max_drop=100"))
    return folder


def search(job: Job) -> None:
    """The default search and a healing, on the device and on the CPU: seconds, and whether they agree."""
    devices = dict.fromkeys([job.device, "cpu"])
    for device in devices:
        job.take(f"search on {device}", lambda device=device: searched(job, device))
    for device in devices:
        job.take(
            f"healing on {device}", lambda device=device: healed(job, device), needs=0 if job.small else 20
        )


def searched(job: Job, device: str) -> dict[str, Any]:
    """Seconds of a search for three blocks, and what it chose."""
    import lacoot_deploy as ld

    trained(job)
    began = time.perf_counter()
    result = ld.collapse(
        trained(job) / "model.onnx",
        job.folder / f"cut-{device}.onnx",
        count=2 if job.small else 3,
        data=ld.DataOptions("digits", limit=200 if job.small else None),
        runtime=ld.Runtime(provider=device),
        plan_out=job.folder / f"plan-{device}.json",
    )
    return {"seconds": time.perf_counter() - began, "blocks": [step.block for step in result.plan.steps]}


def healed(job: Job, device: str) -> dict[str, Any]:
    """Seconds of a healing of what that search left, and the accuracies before and after."""
    import shutil

    import lacoot_deploy as ld

    target = job.folder / f"healed-{device}"
    shutil.rmtree(target, ignore_errors=True)
    began = time.perf_counter()
    settings = ("epochs=1" if job.small else "epochs=5", f"device={device}")
    found = ld.heal_run(trained(job), job.folder / f"plan-{job.device}.json", target, overrides=settings)
    return {
        "seconds": time.perf_counter() - began,
        "dense": found.dense_val_accuracy,
        "cut": found.cut_val_accuracy,
        "healed": found.val_accuracy,
        "device": found.device,
    }


def recipe(job: Job) -> None:
    """One seed of the paper's ResNet-18: as many epochs as there is time for, cut by four blocks, healed."""
    settings = recipe_settings(job)
    timing: dict[str, Any] = {}
    job.take("seconds an epoch", lambda: timing.update(seconds_of_epochs(job, settings)) or timing)
    if "later" not in timing:
        return
    # A quarter of the time is for the cut, the healing and what surrounds the epochs.
    epochs = 2 if job.small else int((0.7 * job.left - timing["first"]) / timing["later"])
    if epochs < 1:
        job.note(
            "training", {"not reached": f"an epoch takes {timing['later']:.0f} s, {job.left:.0f} s left"}
        )
        return
    run = job.folder / f"resnet18-{epochs}-epochs-{job.device}"
    job.take("training", lambda: train_recipe(run, (*settings, f"epochs={min(epochs, 160)}")))
    job.take("cut", lambda: cut_recipe(run, job))
    job.take("healed", lambda: heal_recipe(run, job, timing["later"]))


def recipe_settings(job: Job) -> tuple[str, ...]:
    """The recipe's settings on this device."""
    device = (
        f"device={job.device}",
        *(("precision=bf16", "channels_last=true") if job.device == "cuda" else ()),
    )
    if job.small or job.data is None:
        quick = ("limit=800", "batch_size=32", "warmup=0.2", "max_drop=100", "augment=[]")
        return (*device, "model=digits-resnet", "data=digits", "penalty=1", *quick)
    return (*device, f"data={job.data}", "penalty=1")


def seconds_of_epochs(job: Job, settings: tuple[str, ...]) -> dict[str, Any]:
    """What the first epoch takes, which warms everything up, and a later one."""
    import shutil

    import lacoot_deploy as ld

    probe = job.folder / "probe"
    shutil.rmtree(probe, ignore_errors=True)
    ld.train(RECIPE, probe, overrides=(*settings, "epochs=2"))
    lines = (probe / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    return {"first": seconds[0], "later": seconds[-1]}


def train_recipe(run: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    """Train; an interrupted run goes on."""
    import lacoot_deploy as ld

    resume = (run / "checkpoint.safetensors").is_file()
    found = ld.train(RECIPE, run, overrides=settings, resume=resume)
    return {
        "epochs": found.epochs,
        "seconds": found.seconds,
        "device": found.device,
        "val": found.val_accuracy,
    }


def cut_recipe(run: Path, job: Job) -> dict[str, Any]:
    """Four blocks gone by the default search, judged on test images."""
    import lacoot_deploy as ld

    data = job.data if job.data is not None and not job.small else "digits"
    held, test = ld.DataOptions(data, split="val"), ld.DataOptions(data)
    cut = run.with_name(run.name + "-cut.onnx")
    count = 2 if data == "digits" else 4
    plan = run.with_name(run.name + "-plan.json")
    result = ld.collapse(run / "model.onnx", cut, count=count, data=held, plan_out=plan)
    found = ld.compare(run / "model.onnx", cut, test)
    return {"blocks": [step.block for step in result.plan.steps], "accuracy": found.accuracy.model_dump()}


def heal_recipe(run: Path, job: Job, epoch: float) -> dict[str, Any]:
    """Heal for as many epochs as there is time for, judged on test images."""
    import shutil

    import lacoot_deploy as ld

    data = job.data if job.data is not None and not job.small else "digits"
    epochs = 1 if job.small else max(1, min(20, int(0.6 * job.left / (2 * epoch))))
    target = run.with_name(run.name + "-healed")
    shutil.rmtree(target, ignore_errors=True)
    settings = (f"epochs={epochs}", f"device={job.device}")
    ld.heal_run(run, run.with_name(run.name + "-plan.json"), target, overrides=settings)
    found = ld.compare(run / "model.onnx", target / "model.onnx", ld.DataOptions(data))
    return {"epochs": epochs, "accuracy": found.accuracy.model_dump()}


STAGES: dict[str, Callable[[Job], None]] = {
    "ready": ready,
    "latency": latency,
    "step": step,
    "search": search,
    "recipe": recipe,
    "tensorrt": tensorrt,
}


def main(words: list[str] | None = None) -> int:
    """Run one stage; 1 where a case failed."""
    parser = common.parser(__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=120.0, help="time that the stage has")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/cuda"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    given: argparse.Namespace = parser.parse_args(words)
    job = Job(
        device=given.device,
        small=given.small,
        seconds=given.seconds,
        data=given.data,
        models=given.models,
        folder=given.folder,
        output=given.output,
    )
    job.folder.mkdir(parents=True, exist_ok=True)
    STAGES[given.stage](job)
    if job.failed:
        print(f"failed: {', '.join(job.failed)}: {job.figures[job.failed[0]]['failed']}", file=sys.stderr)
    return bool(job.failed)


if __name__ == "__main__":
    sys.exit(main())
