"""Functions with plain keywords, which they make into the objects that the rooms pass on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import UsageError
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.selection.limits import Limit
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.workflow.collapsing import CollapseRequest, CollapseResult, run_collapse

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.selection.options import LineariseOptions
    from lacoot_deploy.shipping.account import ShipResult


class LimitKeywords(TypedDict, total=False):
    """The fields of `Limit`."""

    blocks: tuple[str, ...] | None
    count: int | None
    max_distance: float | None
    max_drop: float | None
    max_drift: float | None
    min_speedup: float | None
    lossless: bool | None


class SearchKeywords(TypedDict, total=False):
    """The fields of `SearchOptions`."""

    criterion: str | None
    search: str | None
    repair: str
    refit: bool | None
    form: str
    granularity: Literal["block", "unit"]
    private_io: Literal["keep", "drop", "renumber"]
    seed: int


class CollapseKeywords(LimitKeywords, SearchKeywords, total=False):
    """Those two, and what is said of the files and the run."""

    plan_file: str | Path | None
    plan_out: str | Path | None
    dry_run: bool
    probe: bool
    dims: Mapping[str, int]
    progress: Callable[[int, int, str], None] | None


def collapse(
    path: str | Path,
    output: str | Path | None = None,
    *,
    data: DataOptions | str | None = None,
    limit: Limit | None = None,
    options: SearchOptions | None = None,
    linearise: LineariseOptions | None = None,
    runtime: Runtime = AUTO,
    **keywords: Unpack[CollapseKeywords],
) -> CollapseResult:
    """Delete blocks from a model, make activations linear and merge what became linear, and write the shorter one.

    With neither a limit nor `plan_file` nor `linearise` the plan recommended in the model's manifest is applied.

        collapse("m.onnx", "short.onnx", data="npz:calib.npz", max_drop=1)

    Args:
        path: An ONNX file; it is not changed.
        output: The file to write; by default the input's name with `.collapsed.onnx`.
        data: Calibration data to fit repairs on, to choose and to confirm by; text as after `--data`.
        limit: How far to go; or one of its fields as a keyword, such as `max_drop=1`.
        options: How blocks are chosen and repaired; or its fields as keywords, such as `repair="none"`.
        linearise: Which activations become linear, if any.
        runtime: Where trial runs happen.
        keywords: The fields of `Limit` and of `SearchOptions`; `plan_file`, `plan_out`, `dry_run`, `probe` and
            `dims` as in `CollapseRequest`; `progress`, which is called with (done, total, what).

    Raises:
        UsageError: Options that contradict each other, or no plan is recommended in the file.
        InputError: A file cannot be read or written, or the plan does not fit the model.
        NothingToCollapseError: No block can go, or no activation become linear, under the limit.
    """
    given: dict[str, Any] = dict(keywords)
    read = None if data is None else DataOptions.of(data)
    if read is not None and options is None:
        given.setdefault("seed", read.seed)
    limit = _one(Limit, limit, _taken(given, Limit), "limit")
    options = _one(SearchOptions, options, _taken(given, SearchOptions), "options") or SearchOptions()
    plan_file, plan_out = (None if p is None else Path(p) for p in map(given.get, ("plan_file", "plan_out")))
    request = CollapseRequest(
        Path(path),
        None if output is None else Path(output),
        limit=limit,
        plan_file=plan_file,
        data=read,
        search=options,
        linearise=linearise,
        runtime=runtime,
        probe=given.get("probe", True),
        dry_run=given.get("dry_run", False),
        plan_out=plan_out,
        dims=given.get("dims", {}),
    )
    unknown = given.keys() - {"plan_file", "plan_out", "dry_run", "probe", "dims", "progress"}
    if unknown:
        raise TypeError(f"collapse() got an unexpected keyword argument {min(unknown)!r}")
    return run_collapse(request, progress=given.get("progress"))


class ShipKeywords(TypedDict, total=False):
    """The fields of `ShipRequest` beside its files."""

    target: str
    conversions: tuple[str, ...]
    max_drop: float | None
    opset: int | None
    batch: int
    bench: BenchOptions | None
    runtime: Runtime


def ship(
    models: Sequence[str | Path],
    output: str | Path,
    *,
    data: DataOptions | str,
    progress: Callable[[int, int, str], None] | None = None,
    **keywords: Unpack[ShipKeywords],
) -> ShipResult:
    """Convert models for a device, verify every file, and write a folder that can be handed on.

        ship(["model.onnx", "short.onnx"], "phone", data="npz:calib.npz", target="mobile")

    Args:
        models: ONNX files, the dense float32 one that all are held against first.
        output: The folder to write.
        data: Samples to calibrate, choose and confirm by; text as after `--data`.
        progress: Called with (done, total, what).
        keywords: The other fields of `ShipRequest`: `target`, `conversions`, `max_drop`, `opset`, `batch`, `bench`
            (None to measure no latency) and `runtime`.

    Raises:
        UsageError: Options contradict each other.
        InputError: A file or the data cannot be used, or the folder cannot be written.
        ProviderError: The requested provider does not run the model here.
    """
    from lacoot_deploy.workflow.ship_request import ShipRequest
    from lacoot_deploy.workflow.shipping import run_ship

    paths = tuple(Path(path) for path in models)
    request = ShipRequest(paths, Path(output), DataOptions.of(data, split="val"), **keywords)
    return run_ship(request, progress=progress)


def _taken(given: dict[str, Any], kind: type[Any]) -> Mapping[str, Any]:
    """The keywords that are fields of a class, taken out of those given; None says nothing."""
    found = {entry.name: given.pop(entry.name, None) for entry in fields(kind)}
    return {name: value for name, value in found.items() if value is not None}


def _one(kind: type[Any], whole: Any, parts: Mapping[str, Any], name: str) -> Any:
    """The object given, or one made of the keywords; None where there are neither."""
    if whole is not None and parts:
        raise UsageError(f"Give either {name} or {min(parts)}, not both.")
    return kind(**parts) if parts else whole
