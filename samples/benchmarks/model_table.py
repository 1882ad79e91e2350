"""How many of the residual blocks of an architecture can go, how many are refused, and what is found that is none?

    pip install '.[dev]' diffusers
    python samples/benchmarks/model_table.py
    python samples/benchmarks/model_table.py --only bert whisper --exporter torchscript

The architectures are those of the tests (tests/graph/architectures.py and more_architectures.py), small and with random
weights, exported by PyTorch; each says which of its modules are residual blocks and in which form they can go. A block
is right where `find_blocks` calls it collapsible in that form under the module's name, refused where it is named with a
reason, missed where it is not named at all; what can go and is no such module is a false find. Architectures that an
exporter cannot export are listed with the error. Prints a table, writes everything as JSON; 4 where less than 97 % is
right or anything is a false find.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

from lacoot_deploy.graph.discovery import find_blocks

REPOSITORY = Path(__file__).resolve().parents[2]
COLUMNS = ("blocks", "right", "refused", "missed", "false finds")
ROW = "{:24} {:>7} {:>7} {:>8} {:>7} {:>12} {:>8}"
WANTED = 0.97


def judge(architecture: Any, exporter: str) -> dict[str, Any]:
    """One architecture: its blocks, and what discovery says of each."""
    from ground_truth import exported

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model, expected = exported(architecture, exporter)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return {"architecture": architecture.name, "exporter": exporter, "problem": problem}
    started = time.process_time()
    found = {block.name.partition(":")[0]: block for block in find_blocks(model)}
    seconds = time.process_time() - started
    able = {name: block.forms[0].value for name, block in found.items() if block.collapsible}
    wanted = {name.partition(":")[0]: form for name, form in expected.items()}
    reasons = {
        name: found[name].reason.code for name in wanted if name in found and found[name].reason is not None
    }
    return {
        "architecture": architecture.name,
        "exporter": exporter,
        "nodes": len(model.graph.node),
        "seconds": round(seconds, 3),
        "blocks": sorted(wanted),
        "right": sorted(name for name, form in wanted.items() if able.get(name) == form),
        "refused": reasons,
        "missed": sorted(
            name for name, form in wanted.items() if able.get(name) != form and name not in reasons
        ),
        "false finds": sorted(name for name in able if name not in wanted),
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table, at most 80 columns wide."""
    print(ROW.format("architecture", *COLUMNS, "seconds"))
    for row in rows:
        if "problem" in row:
            print(f"{row['architecture']:24} not exported: {row['problem']}"[:80])
        else:
            counts = [len(row[key]) for key in COLUMNS]
            print(ROW.format(row["architecture"], *counts, f"{row['seconds']:.2f}"))
    done = [row for row in rows if "problem" not in row]
    totals = [sum(len(row[key]) for row in done) for key in COLUMNS]
    slowest = max((row["seconds"] for row in done), default=0.0)
    print(ROW.format("all", *totals, f"{slowest:.2f}"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge, print, write."""
    parser = common.parser(__doc__)
    parser.add_argument("--only", nargs="*", help="these architectures (default: all that have blocks)")
    parser.add_argument("--exporter", choices=["dynamo", "torchscript"], default="torchscript")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "model_table.json"
    )
    options = parser.parse_args(arguments)

    sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "graph")]
    from architectures import ARCHITECTURES
    from more_architectures import MORE

    rows: list[dict[str, Any]] = []
    for architecture in (*ARCHITECTURES, *MORE):
        if options.only and architecture.name not in options.only:
            continue
        exporter = (
            options.exporter if options.exporter in architecture.exporters else architecture.exporters[0]
        )
        print(architecture.name, file=sys.stderr)
        rows.append(judge(architecture, exporter))
    show(rows)
    common.write(
        options.output,
        {
            "architectures": rows,
            "exporter": options.exporter,
            "machine": common.machine(),
            "command": common.command(),
        },
    )
    done = [row for row in rows if "problem" not in row]
    right, all_ = (sum(len(row[key]) for row in done) for key in ("right", "blocks"))
    return 4 if right < WANTED * all_ or any(row["false finds"] for row in done) else 0


if __name__ == "__main__":
    sys.exit(main())
