"""`ship`: from models to files that run on a device, each verified, with one account of what it costs and gains."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lacoot_deploy.errors import InputError, ProviderError, UsageError, VerificationError
from lacoot_deploy.progress import Progress
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.shipping.account import Line, ShipResult
from lacoot_deploy.shipping.targets import Target, get_target
from lacoot_deploy.version import PRODUCER
from lacoot_deploy.workflow.ship_folder import new_folder, write_papers
from lacoot_deploy.workflow.ship_measures import Judged, measure_latency, plain_line
from lacoot_deploy.workflow.ship_proof import prove
from lacoot_deploy.workflow.ship_request import PLAIN, ShipRequest, Source, read_sources

if TYPE_CHECKING:
    from lacoot_deploy.shipping.conversion import Conversion, Job


def run_ship(request: ShipRequest, *, progress: Progress | None = None) -> ShipResult:
    """Convert models for a device, verify every file, and write a folder that can be handed on.

    The folder appears whole or not at all. A conversion that cannot be made, or whose score drops by more than the
    limit on the confirming samples, is in the account and not in the folder.

    Args:
        request: What to do.
        progress: Called with (done, total, what).

    Returns:
        The account; see `require`.

    Raises:
        UsageError: Options contradict each other.
        InputError: A file or the data cannot be used, or the folder cannot be written.
        ProviderError: The requested provider does not run the model here.
    """
    told = progress or (lambda done, total, what: None)
    target = get_target(request.target)
    sources = read_sources(request.models)
    with new_folder(request.output, inputs=[*request.models, *request.data.files]) as folder:
        runtime, unproven = _runtime(sources[0].path, target, request.runtime)
        judged = Judged.on(sources[0], request, runtime)
        with tempfile.TemporaryDirectory(prefix="lacoot-ship-") as scratch:
            lines = _make_all(sources, request, judged, folder, Path(scratch), told)
            prove(lines, folder, judged, Path(scratch), told)
        for line in lines:
            line.unproven += [unproven] if unproven is not None and line.file is not None else []
        account = ShipResult(
            producer=PRODUCER,
            target=target.name,
            why=target.why if not request.conversions else "These conversions were asked for by name.",
            reference=sources[0].path.name,
            conditions=judged.conditions(),
            files=lines,
        )
        timed = None
        if request.bench is not None:
            timed = measure_latency(account, folder, judged, request.bench, told)
        write_papers(account, folder, sources, judged, timed)
    return account


def require(account: ShipResult, asked: Sequence[str]) -> None:
    """Stand by what was asked for by name.

    Raises:
        VerificationError: One of these conversions was left out or could not be made.
    """
    wrong = [line for line in account.files if line.verdict != "shipped" and line.conversion in asked]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise VerificationError(f"{wrong[0].name} is not in the folder: {wrong[0].reason}{more}.")


def _runtime(path: Path, target: Target, asked: Runtime) -> tuple[Runtime, str | None]:
    """Where files run here, and what that leaves unproven: the target's own provider where it works."""
    from lacoot_deploy.runtime.sessions import open_session

    if asked.provider != "auto":
        open_session(path, asked)
        return (
            asked,
            None if asked.provider == target.provider else f"not run on {asked.provider} by the target",
        )
    wanted = target.provider or "cpu"
    try:
        open_session(path, replace(asked, provider=wanted))
    except (ProviderError, UsageError) as error:
        return replace(asked, provider="cpu"), f"not proven on {wanted}, only on the CPU: {error}"
    return replace(asked, provider=wanted), None


def _make_all(
    sources: Sequence[Source],
    request: ShipRequest,
    judged: Judged,
    folder: Path,
    scratch: Path,
    told: Progress,
) -> list[Line]:
    """Every file of every model, in the folder as far as it keeps the limit."""
    from lacoot_deploy.shipping.registry import chain_of

    lines: list[Line] = []
    total = len(sources) * (1 + len(request.chains))
    for source in sources:
        told(len(lines), total, f"{source.stem} {PLAIN}")
        lines.append(plain_line(source, folder, judged))
        for name in request.chains:
            told(len(lines), total, f"{source.stem} {name}")
            place = scratch / f"{len(lines)}"
            place.mkdir()
            job = judged.job(source, place)
            lines.append(_make(source, name, chain_of(name), job, folder, judged))
    told(total, total, "converting")
    return lines


def _make(
    source: Source, name: str, chain: Sequence[Conversion], job: Job, folder: Path, judged: Judged
) -> Line:
    """One conversion of one model: shipped, left out, or failed."""
    from lacoot_deploy.shipping.chain import apply_chain
    from lacoot_deploy.shipping.conversion import CannotConvertError

    line = Line(name=f"{source.stem} {name}", model=source.path.name, role=source.role, conversion=name)
    words = [source.stem, *(part for part in name.split("+") if part != "ort")]
    out = job.folder / "out"
    out.mkdir()
    try:
        made = apply_chain(chain, job, out / ".".join(words))
        line.kept_float, line.notes = list(made.kept_float), list(made.notes)
        judged.fill(line, made.path, made.beside)
    except CannotConvertError as error:
        line.verdict, line.reason = "failed", str(error).rstrip(".")
    except (InputError, MemoryError) as error:
        reason = str(error).replace(f"{out}/", "").rstrip(".")
        line.verdict, line.reason = "failed", reason or "the memory ran out"
    if line.verdict != "shipped":
        line.file, line.beside = None, []
    for written in (line.file, *line.beside):
        if written is not None:
            shutil.move(out / written, folder / written)
    return line
