"""The whole way, twice, on real data: what `make demo` runs.

First a network trained for it: a small residual network learns the handwritten digits with the block penalty, loses
blocks, is healed and shipped; beside it the same network without the penalty and the controls, the equally shallow
network from scratch, alone and with a teacher. Then somebody else's file: a ResNet-20 for CIFAR-10 that was trained
plainly (samples/models/) is inspected, cut, healed and shipped with a few hundred pictures.

    python samples/01_quickstart.py -o demo
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacoot_deploy_cli.main import run

MODELS = Path(os.path.relpath(Path(__file__).parent / "models"))
MAX_DROP = 2.0
"""Points that the healed network may lose against the dense one without penalty before the demo fails."""
MAX_LOSS = 12.0
"""And those of the network in the second half, which has a few hundred pictures and a minute."""

Words = Sequence[str | Path]


def say(text: str) -> None:
    print(text, flush=True)


def command(*arguments: str | Path) -> Any:
    """Run one `lacoot-deploy` command, show it, and give back the JSON document that it prints; end where it fails."""
    words = [str(argument) for argument in arguments]
    say(f"\n$ lacoot-deploy {shlex.join(words)}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run([*words, "--json"])
    if code != 0:
        say(f"FAILED: lacoot-deploy {words[0]} ended with exit code {code}")
        sys.exit(code)
    return json.loads(printed.getvalue())


@dataclass
class Table:
    """Networks beside one that they are held against, on the same samples; a row each."""

    reference: Path
    data: Words
    rows: list[list[str]]

    def add(self, name: str, model: Path, *limits: str, timed: bool = True) -> Any:
        """Add a network; `limits` are options of `compare` that end the demo where they are exceeded."""
        facts = command("inspect", model)
        compared = command("compare", self.reference, model, *self.data, *limits)
        accuracy = compared["accuracy"]
        low, high = accuracy["ci95"]
        speed = "1" if model == self.reference else ""
        if timed and model != self.reference:
            measured = command("bench", self.reference, model, "--min-time", "4")
            speed = "{:.2f} ({:.2f} to {:.2f})".format(measured["speedup"], *measured["ci95"])
        drop = (
            ""
            if model == self.reference
            else f"{-accuracy['drop_points']:+.2f} ({-high:+.2f} to {-low:+.2f})"
        )
        self.rows.append([
            name, f"{accuracy['b']:.2f}", drop, str(len(facts["blocks"])),
            f"{facts['model']['macs'] / 1e6:.2f}", f"{model.stat().st_size / 1024:.0f}", speed,
        ])  # fmt: skip
        return compared

    def show(self) -> None:
        """Print the rows in columns."""
        head = ["network", "test %", "against dense (95 %)", "blocks", "MMACs", "KiB", "times as fast (95 %)"]
        widths = [max(len(row[i]) for row in (head, *self.rows)) for i in range(len(head))]
        say("")
        for row in (head, ["-" * width for width in widths], *self.rows):
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def shipped(dense: Path, cut: Path, data: Words, limit: float, out: Path) -> Path:
    """The int8 file that `ship` makes of the cut network, within that many points of the dense one."""
    given = [*data, "--convert", "int8", "--no-bench", "--max-drop", str(limit)]
    lines = command("ship", dense, cut, *given, "-o", out)["files"]
    (line,) = [line for line in lines if line["role"] != "dense" and line["conversion"] == "int8"]
    return out / str(line["file"])


def trained_for_it(out: Path, settings: list[str], count: int) -> list[str]:
    """The first half; gives the blocks that went."""
    base = [*settings, "--set", "val_fraction=0.2"]
    plain, penalty = out / "plain", out / "penalty"
    command("train", "-o", plain, *base, "--set", "penalty=0")
    command("train", "-o", penalty, *base, "--set", "penalty=1", "--set", "max_drop=2")
    for block in command("inspect", penalty / "model.onnx")["blocks"]:
        distance = (block["distance"] or {}).get("mswd", {}).get("value")
        shown = "not measured (strided)" if distance is None else f"distance {distance:.3f}"
        say(f"  {block['name']}: {shown}, can go as {' or '.join(block['forms'])}")
    short, plan = out / "collapsed.onnx", out / "plan.json"
    chosen = ["--data", "digits", "--count", str(count), "--plan-out", plan]
    steps = command("collapse", penalty / "model.onnx", "-o", short, *chosen)["plan"]["steps"]
    gone = [step["block"] for step in steps]
    say(f"  gone: {', '.join(gone)}")
    healed = out / "healed" / "model.onnx"
    command("train", penalty, "--heal", plan, "-o", healed.parent, "--set", "epochs=10")
    say(
        "\nThe controls: the network that is left, trained from scratch, alone and with the dense network as teacher."
    )
    without = ["--set", f"without={json.dumps(gone)}", "--set", "penalty=0"]
    command("train", "-o", out / "scratch", *base, *without)
    command("train", "-o", out / "taught", *base, *without, "--set", f"teacher={plain}")
    table = Table(plain / "model.onnx", ["--data", "digits"], [])
    table.add("dense, without penalty", plain / "model.onnx")
    table.add("dense, with penalty", penalty / "model.onnx", timed=False)
    table.add("collapsed", short)
    table.add("healed", healed, "--max-drop", str(MAX_DROP))
    renamed, learn = out / "digits.healed.onnx", ["--data", "digits", "--split", "train"]
    shutil.copyfile(healed, renamed)
    table.add(
        "healed, shipped in int8", shipped(plain / "model.onnx", renamed, learn, MAX_DROP, out / "ship")
    )
    table.add("shallow, from scratch", out / "scratch" / "model.onnx")
    table.add("shallow, with the teacher", out / "taught" / "model.onnx", timed=False)
    table.show()
    return gone


def from_a_file(out: Path, steps: int) -> None:
    """The second half: nothing is trained for it, nothing but the file and a few hundred pictures is used."""
    model = MODELS / "resnet20.onnx"
    pictures = ["--data", f"cifar10:{MODELS / 'images.zip'}"]
    learn = [*pictures, "--split", "train"]
    say(
        "\n== Somebody else's file: a ResNet-20 trained plainly on CIFAR-10, 400 pictures to choose and heal by"
    )
    short, healed = out / "resnet20.short.onnx", out / "resnet20.healed.onnx"
    command("collapse", model, "-o", short, *learn, "--count", "3")
    command("heal", model, short, "-o", healed, *learn, "--steps", str(steps), "--augment", "flip,crop")
    table = Table(model, pictures, [])
    table.add("dense", model)
    table.add("collapsed", short)
    table.add("healed", healed, "--max-drop", str(MAX_LOSS))
    table.add("healed, shipped in int8", shipped(model, healed, learn, MAX_LOSS, out / "resnet20.ship"))
    table.show()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder for everything made")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting of every training"
    )
    parser.add_argument("--count", type=int, default=4, help="blocks of six that go in the first half")
    parser.add_argument("--steps", type=int, default=150, help="of healing in the second half")
    arguments = parser.parse_args()
    started = time.monotonic()
    out: Path = arguments.output
    for made in ("plain", "penalty", "healed", "scratch", "taught", "ship", "resnet20.ship"):
        shutil.rmtree(out / made, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    settings = [word for setting in ("epochs=30", *arguments.set) for word in ("--set", setting)]
    gone = trained_for_it(out, settings, arguments.count)
    from_a_file(out, arguments.steps)
    say(
        f"\n{len(gone)} of 6 blocks went from the network trained for it, and healing gave back what that cost; it "
        "stands beside the\nshallow networks from scratch, which need all of the data and a training of their own. "
        "The file from elsewhere got\nshorter with 400 pictures and no labels in its healing: there no such training "
        "is at hand."
    )
    say(f"Done in {time.monotonic() - started:.0f} s; the files are in {out}/.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
