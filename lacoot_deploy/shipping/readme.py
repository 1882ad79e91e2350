"""The README of a shipped folder: what the files are, how to feed them, and how to check that they are whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lacoot_deploy.files import sha256_file
from lacoot_deploy.numerals import significant
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session

if TYPE_CHECKING:
    from lacoot_deploy.data.types import InputInfo
    from lacoot_deploy.manifest import PreprocessingRecord
    from lacoot_deploy.shipping.account import Line, ShipResult


def readme(
    account: ShipResult, folder: Path, *, preprocessing: PreprocessingRecord | None, page: bool
) -> str:
    """The text of README.md.

    Args:
        account: What is in the folder.
        folder: The folder, whose other files are all written.
        preprocessing: How images become inputs; None where that is not known.
        page: Whether there is a report.html.
    """
    first = account.shipped[0]
    session = open_session(folder / str(first.file), Runtime("cpu"))
    parts = [
        f"# {Path(account.reference).stem} for {account.target}\n",
        f"Made by {account.producer}. {account.why}\n",
        "## Files\n",
        *_table(account),
        *_left_out(account),
        "\n`ship.json` is the whole account"
        + (", `report.html` the page about it" if page else "")
        + "; `samples.npz` holds a few inputs, `expected.npz` what every file answered to them.\n",
        "## Inputs and outputs\n",
        *(_value("input", info) for info in session.inputs),
        *(_value("output", info) for info in session.outputs),
        "",
        *_preprocessing(preprocessing),
        "## Run and verify\n",
        "```sh",
        f"python run.py {first.file}",
        "python run.py --check",
        *_compare(account),
        "sha256sum -c SHA256SUMS",
        "```\n",
        *_proofs(account),
        "## Hashes (SHA-256)\n",
        "```",
        sums := _sums(folder),
        "```\n",
    ]
    (folder / "SHA256SUMS").write_text(sums + "\n", encoding="utf-8")
    return "\n".join(parts)


def _table(account: ShipResult) -> list[str]:
    conditions = account.conditions
    unit = f" ({conditions.unit})" if conditions.unit else ""
    rows = [
        f"| file | {conditions.measure} | drop{unit}, 95 % interval | speed-up, 95 % interval | KB |",
        "|---|---|---|---|---|",
    ]
    for line in account.shipped:
        rows.append(
            f"| `{line.file}` | {_score(line)} | {_drop(line)} | {_speed(line)} | {_kilobytes(line)} |"
        )
    labelled = "labels" if conditions.labels else "the dense network's own answers"
    rows.append(
        f"\nAgainst `{account.reference}` in float32, on {conditions.confirming_samples} samples of "
        f"{conditions.data} that chose nothing, judged by {labelled}; latency at batch {conditions.batch} on "
        f"{conditions.gpu or conditions.cpu}, all files in one run.\n"
    )
    return rows


def _left_out(account: ShipResult) -> list[str]:
    return [
        f"- Not here: {line.name} ({line.verdict}): {line.reason}."
        for line in account.files
        if line.verdict != "shipped"
    ]


def _score(line: Line) -> str:
    return "" if line.score is None else f"{line.score.value:.2f}"


def _drop(line: Line) -> str:
    score = line.score
    return "" if score is None else f"{score.drop:.2f} ({score.drop_low:.2f} to {score.drop_high:.2f})"


def _speed(line: Line) -> str:
    timed = line.latency
    return "" if timed is None else f"{timed.speedup:.2f} ({timed.low:.2f} to {timed.high:.2f})"


def _kilobytes(line: Line) -> str:
    return "" if line.bytes is None else significant(line.bytes / 1000)


def _value(what: str, info: InputInfo) -> str:
    shape = " x ".join("any" if dim is None else str(dim) for dim in info.shape) or "a single number"
    return f"- {what} `{info.name}`: {info.dtype}, {shape}"


def _preprocessing(record: PreprocessingRecord | None) -> list[str]:
    if record is None:
        return []
    height, width = record.size
    return [
        f"An image becomes an input so: resize to {height} x {width} pixels, {record.channels} channel(s), then per "
        f"channel `(pixel / 255 - mean) / std` with mean {list(record.mean)} and std {list(record.std)}.\n"
    ]


def _compare(account: ShipResult) -> list[str]:
    reference = account.shipped[0].file
    return [
        f"lacoot-deploy compare {reference} {line.file} --data DATA"
        for line in account.shipped[1:2]
        if str(line.file).endswith(".onnx")
    ]


def _proofs(account: ShipResult) -> list[str]:
    lines = ["What ran where:\n"]
    for line in account.shipped:
        said = [*line.proven, *(f"fell back: {text}" for text in line.fallbacks), *line.unproven]
        lines.append(f"- `{line.file}`: {'; '.join(said)}.")
    return [*lines, ""]


def _sums(folder: Path) -> str:
    names: Sequence[str] = sorted(
        path.name for path in folder.iterdir() if path.name not in ("README.md", "SHA256SUMS")
    )
    return "\n".join(f"{sha256_file(folder / name)}  {name}" for name in names)
