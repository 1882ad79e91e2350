"""The main job from end to end on real data: what `make demo` runs.

Trains a small residual network on handwritten digits with the block penalty, exports it, inspects it, applies the
recommended plan, compares on test images that nothing before has seen, and measures latency in pairs. The last row
of the table is the control: the equally shallow network trained from scratch.

    python samples/01_quickstart.py -o demo
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

MAX_DROP = 1.0
"""Points of test accuracy that the collapsed network may lose before the demo fails."""


def say(text: str) -> None:
    print(text, flush=True)


def command(*arguments: str | Path) -> Any:
    """Run one `lacoot-deploy` command, show it, and give back the JSON document that it prints."""
    words = [str(argument) for argument in arguments]
    say(f"\n$ lacoot-deploy {' '.join(words)}")
    done = subprocess.run(
        [sys.executable, "-m", "lacoot_deploy", *words, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def row(name: str, model: Path, accuracy: float, latency: str, speedup: str) -> list[str]:
    inspection = command("inspect", model)
    facts = inspection["model"]
    return [
        name,
        f"{accuracy:.2f} %",
        str(len(inspection["blocks"])),
        str(facts["nodes"]),
        f"{facts['parameters'] / 1e3:.0f} k",
        f"{facts['macs'] / 1e6:.2f} M",
        f"{model.stat().st_size / 1024:.0f} KiB",
        latency,
        speedup,
    ]


def print_table(rows: list[list[str]]) -> None:
    head = [
        "network",
        "test",
        "blocks",
        "nodes",
        "params",
        "MACs",
        "on disk",
        "median ms",
        "speed-up",
    ]
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    for line in [head, ["-" * width for width in widths], *rows]:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def interval(result: dict[str, Any]) -> str:
    low, high = result["ci95"]
    return f"{result['speedup']:.2f}x [{low:.2f}, {high:.2f}]"


def latency(rounds: list[list[float]]) -> str:
    """Median over rounds of fresh sessions of each round's median latency, with its bootstrap 95 % interval."""
    medians = np.array([np.median(samples) for samples in rounds if samples])
    draws = np.random.default_rng(0).choice(medians, (2000, len(medians)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return f"{np.median(medians):.3f} [{low:.3f}, {high:.3f}]"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder for everything made")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the recipe"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    out: Path = arguments.output
    for folder in (out / "run", out / "scratch"):
        if folder.exists():
            shutil.rmtree(folder)
    out.mkdir(parents=True, exist_ok=True)
    settings = [word for setting in arguments.set for word in ("--set", setting)]
    dense, short, scratch = out / "run" / "model.onnx", out / "collapsed.onnx", out / "scratch" / "model.onnx"

    command("train", "-o", out / "run", *settings)
    blocks = command("inspect", dense)["blocks"]
    for block in blocks:
        distance = (block["distance"] or {}).get("mswd", {}).get("value")
        shown = "not measured (strided)" if distance is None else f"distance {distance:.3f}"
        say(f"  {block['name']}: {shown}, can go as {' or '.join(block['forms'])}")
    collapsed = command("collapse", dense, "-o", short)
    gone = [step["block"] for step in collapsed["plan"]["steps"]]
    say(f"  gone: {', '.join(gone)}")
    compared = command("compare", dense, short, "--data", "digits", "--max-drop", MAX_DROP)
    measured = command("bench", dense, short)

    say("\nThe control: the network that is left, trained from scratch in the same way without the penalty.")
    names = json.dumps(gone)
    command("train", "-o", out / "scratch", *settings, "--set", f"without={names}", "--set", "penalty=0")
    control = command("compare", dense, scratch, "--data", "digits")
    control_measured = command("bench", dense, scratch)

    accuracy = compared["accuracy"]
    rows = [
        row("dense", dense, accuracy["a"], latency(measured["samples"]["a"]), "1"),
        row("collapsed", short, accuracy["b"], latency(measured["samples"]["b"]), interval(measured)),
        row(
            "from scratch",
            scratch,
            control["accuracy"]["b"],
            latency(control_measured["samples"]["b"]),
            interval(control_measured),
        ),
    ]
    say("")
    print_table(rows)
    say(
        "In brackets: 95 % intervals. Speed-ups come from pairs with dense in one run each; compare those across rows."
    )
    low, high = accuracy["ci95"]
    say(
        f"\n{len(gone)} of {len(blocks)} blocks gone; test accuracy drops by {accuracy['drop_points']:.2f} points "
        f"(95 % interval {low:.2f} to {high:.2f}); {measured['verdict']} by {interval(measured)}."
    )
    removable = [block for block in blocks if "bypass" in block["forms"]]
    failures = []
    if 2 * len(gone) < len(removable):
        failures.append(f"only {len(gone)} of {len(removable)} removable blocks are gone")
    if measured["verdict"] != "faster":
        failures.append(f"the collapsed network is not detectably faster ({interval(measured)})")
    for failure in failures:
        say(f"FAILED: {failure}")
    say(f"Done in {time.monotonic() - started:.0f} s; the files are in {out}/.")
    return 4 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
