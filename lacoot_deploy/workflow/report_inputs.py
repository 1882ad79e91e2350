"""What `report` is given: run folders, ONNX files and JSON results, told apart and matched with each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lacoot_deploy.bench.files import total_bytes
from lacoot_deploy.data.options import portable
from lacoot_deploy.errors import InputError
from lacoot_deploy.files import sha256_file
from lacoot_deploy.manifest import CollapseRecord, Plan, parse_plan
from lacoot_deploy.reports.records import Epoch, Network, Role, Training
from lacoot_deploy.workflow.inspecting import Opened, open_model

if TYPE_CHECKING:
    from lacoot_deploy.bench.result import BenchResult
    from lacoot_deploy.runtime.compare import CompareResult
    from lacoot_deploy.shipping.account import ShipResult

MAX_JSON_BYTES = 512 * 1024 * 1024


RUN_FILES = ("metrics.jsonl", "model.onnx", "recipe.json", "checkpoint.safetensors", "distances.json")
"""What a run folder holds."""


class TableLatency(BaseModel):
    """Latency in a row of a results table: the speed-up over the dense network."""

    model_config = ConfigDict(extra="ignore")
    speedup: float


class TableRow(BaseModel):
    """One network of a results table."""

    model_config = ConfigDict(extra="ignore")
    way: str = ""
    criterion: str | None = None
    repair: str | None = None
    removed: int
    test_accuracy: float
    macs: int | None = None
    latency: TableLatency | None = None


class ScratchRow(BaseModel):
    """A control of a results table: a shallow network trained from scratch."""

    model_config = ConfigDict(extra="ignore")
    name: str
    test_accuracy: float
    removed: int | None = None
    without: list[str] = Field(default_factory=list)
    macs: int | None = None
    latency: TableLatency | None = None


class ResultsTable(BaseModel):
    """Networks at several depths, as the scripts in samples/benchmarks write them."""

    model_config = ConfigDict(extra="ignore")
    name: str
    recipe: dict[str, Any] = Field(default_factory=dict)
    dense_accuracy: float | None = None
    rows: list[TableRow]
    scratch: list[ScratchRow] = Field(default_factory=list)


@dataclass(frozen=True)
class GivenModel:
    """An ONNX file with what it holds: its blocks, its hash, and the run that it came from if that was given."""

    path: Path
    opened: Opened
    fingerprint: str
    sha256: str
    run: Path | None = None

    @property
    def history(self) -> list[CollapseRecord]:
        """What was cut out of it before."""
        return self.opened.manifest.history if self.opened.manifest is not None else []

    @property
    def recommended(self) -> Plan | None:
        """The plan that its training recommended."""
        return self.opened.manifest.plan if self.opened.manifest is not None else None

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe that its manifest records; empty where it records none."""
        source = self.opened.manifest.source if self.opened.manifest is not None else None
        return (source.recipe if source is not None else None) or {}

    def network(self, role: Role) -> Network:
        """What a report says of it."""
        costs = self.opened.costs
        return Network(
            name=self.path.name if self.run is None else f"{self.run.name}/{self.path.name}",
            role=role,
            blocks=len(self.opened.blocks),
            nodes=costs.nodes,
            parameters=costs.parameters,
            macs=costs.macs,
            file_bytes=total_bytes(self.path),
            sha256=self.sha256,
            fingerprint=self.fingerprint,
        )


@dataclass
class Given:
    """All that was given, told apart."""

    models: list[GivenModel] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    comparisons: list[tuple[str, CompareResult]] = field(default_factory=list)
    benches: list[tuple[str, BenchResult]] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    tables: list[ResultsTable] = field(default_factory=list)
    accounts: list[ShipResult] = field(default_factory=list)


def read_inputs(paths: Sequence[str | Path]) -> Given:
    """Tell apart and read what was given.

    Raises:
        InputError: Something is missing, cannot be read, or is nothing that a report can be made of.
    """
    given = Given()
    for path in map(Path, paths):
        if path.is_dir():
            _read_run(path, given)
        elif path.suffix == ".json":
            _read_json(path, given)
        else:
            given.models.append(read_model(path))
    return given


def read_model(path: Path, run: Path | None = None) -> GivenModel:
    """Open an ONNX file, or the model of a run folder.

    Raises:
        InputError: It is missing or cannot be used.
    """
    from lacoot_deploy.graph.model.io import fingerprint

    if path.is_dir():
        path, run = path / "model.onnx", path
    opened = open_model(path)
    return GivenModel(path, opened, fingerprint(opened.model), sha256_file(path), run)


def _read_run(folder: Path, given: Given) -> None:
    metrics, model, recipe = (folder / name for name in ("metrics.jsonl", "model.onnx", "recipe.json"))
    if not metrics.is_file() and not model.is_file():
        raise InputError(
            f"{folder} is no run folder: it holds neither metrics.jsonl nor model.onnx. Give a folder that "
            f"'lacoot-deploy train' wrote, or ONNX files."
        )
    if metrics.is_file():
        lines = _text(metrics).splitlines()
        try:
            epochs = [Epoch.model_validate_json(line) for line in lines if line.strip()]
        except ValidationError as error:
            raise InputError(f"{metrics} cannot be read: {_first(error)}.") from None
        settings = _object(recipe) if recipe.is_file() else {}
        given.trainings.append(Training(name=folder.name, epochs=epochs, recipe=_portable(settings)))
    if model.is_file():
        given.models.append(read_model(model, folder))


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the folders of this machine."""
    shown = dict(settings)
    if isinstance(shown.get("data"), str):
        shown["data"] = portable(shown["data"])
    for key in ("weights", "teacher"):
        if isinstance(shown.get(key), str):
            shown[key] = Path(shown[key]).name
    return shown


def _read_json(path: Path, given: Given) -> None:
    document = _object(path)
    keys = set(document)

    def parsed(build: Callable[[Any], Any], part: Any = document) -> Any:
        try:
            return build(part)
        except ValidationError as error:
            raise InputError(f"{path} cannot be used: {_first(error)}.") from None

    if {"outputs", "agreement", "samples"} <= keys:
        from lacoot_deploy.runtime.compare import CompareResult

        given.comparisons.append((path.name, parsed(CompareResult.model_validate)))
    elif {"a", "environment", "samples"} <= keys:
        from lacoot_deploy.bench.result import BenchResult

        given.benches.append((path.name, parsed(BenchResult.model_validate)))
    elif {"target", "conditions", "files"} <= keys:
        from lacoot_deploy.shipping.account import ShipResult

        given.accounts.append(parsed(ShipResult.model_validate))
    elif {"plan", "before", "after"} <= keys:
        given.plans.append(parse_plan(json.dumps(document["plan"]), path=path))
    elif {"steps", "limit"} <= keys:
        given.plans.append(parse_plan(_text(path), path=path))
    elif {"rows", "dense_accuracy"} <= keys:
        given.tables.append(parsed(ResultsTable.model_validate))
    elif {"runs", "machine"} <= keys and isinstance(document["runs"], list):
        tables = [parsed(ResultsTable.model_validate, run) for run in document["runs"]]
        scratch = [parsed(ScratchRow.model_validate, row) for row in document.get("scratch", [])]
        given.tables += [table.model_copy(update={"scratch": scratch}) for table in tables]
    else:
        raise InputError(
            f"{path} is nothing that a report is made of: give what 'compare --json', 'bench --json', "
            f"'collapse --json', 'collapse --plan-out' or 'ship' wrote, or a table of samples/benchmarks/results."
        )


def _object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}).") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} holds no JSON object.")
    return document


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(
                f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB; it is none of lacoot-deploy's."
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text.") from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'top level'}: {str(first['msg']).removeprefix('Value error, ')}"


@dataclass(frozen=True)
class Cast:
    """Which of the given networks plays which part.

    Attributes:
        dense: What it all started from; None where only a collapsed file was given.
        short: The collapsed network that the answer is about; None where there is none yet.
        others: Further collapsed networks of the same dense one.
        scratch: The control.
        records: What was cut between dense and short.
        notes: What a reader should know.
    """

    dense: GivenModel | None
    short: GivenModel | None
    others: tuple[GivenModel, ...]
    scratch: GivenModel | None
    records: tuple[CollapseRecord, ...]
    notes: tuple[str, ...]


def cast(models: Sequence[GivenModel], scratch: GivenModel | None) -> Cast:
    """Match dense and collapsed networks through the histories that collapsed files carry.

    Raises:
        InputError: There is no network among what was given.
    """
    rest: list[GivenModel] = []
    for model in models:
        # A network that was built without some of its blocks is the control, not a collapsed one.
        if scratch is None and model.recipe.get("without") and not model.history:
            scratch = model
        elif scratch is None or model.sha256 != scratch.sha256:
            rest.append(model)
    if not rest:
        raise InputError("A report needs a network: give a run folder of 'train' or ONNX files.")
    for short in rest:
        before = [record.model_sha256_before for record in short.history]
        plans = [record.plan_sha256 for record in short.history]
        for model in rest:
            if model is short:
                continue
            first = before.index(model.fingerprint) if model.fingerprint in before else None
            if first is None and model.recommended is not None and model.recommended.digest() in plans:
                first = plans.index(model.recommended.digest())
            if first is not None:
                records = tuple(short.history[first:])
                others = tuple(one for one in rest if one not in (model, short))
                return Cast(model, short, others, scratch, records, ())
    if len(rest) == 1:
        (only,) = rest
        if only.history:
            note = (
                f"The network that {only.path.name} was cut from is not among the files given; give it as well to "
                f"compare the two."
            )
            return Cast(None, only, (), scratch, tuple(only.history), (note,))
        return Cast(only, None, (), scratch, (), ())
    dense, short, *more = rest
    note = (
        f"No history links {short.path.name} to {dense.path.name}: they are shown in the order in which they were "
        f"given, the first as the dense network."
    )
    return Cast(dense, short, tuple(more), scratch, tuple(short.history), (note,))
