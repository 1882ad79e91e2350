"""Kills commands at random moments and looks at what is left.

    python tests/faults/kills.py --moments 200

Every command runs in a process of its own, forked from one that has everything imported, and is ended by SIGKILL
after a random part of the time that it takes. Then: the inputs are what they were; every output is absent or whole;
what is left beside it is hidden and named as temporary; and the same command, run again, ends well, gives what it
always gives and leaves nothing behind. Training goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "graph"), str(HERE.parent)]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from builders import residual_cnn  # noqa: E402

from lacoot_deploy.files import STAGING_SUFFIX  # noqa: E402
from lacoot_deploy.graph.model.io import load_model  # noqa: E402
from lacoot_deploy.manifest import parse_plan, read_manifest  # noqa: E402

RECIPE = {
    "model_args": {"widths": [4, 4], "blocks": [2, 1]},
    "epochs": 4,
    "limit": 200,
    "batch_size": 64,
    "projections": 8,
    "measure_samples": 32,
    "max_drop": 60.0,
    "device": "cpu",
}


@dataclass(frozen=True)
class Command:
    """A command under test.

    Attributes:
        prepare: Puts its inputs into a folder.
        run: Runs it there.
        outputs: What it writes; the first is there if it ended well.
        share: Of all moments.
        same: Whether the first output has the same bytes every time.
    """

    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    outputs: tuple[str, ...]
    share: float
    same: bool = True


def model_and_data(folder: Path) -> None:
    """A model with external weights and samples for it."""
    model = residual_cnn(6, channels=16, size=8)[0]
    onnx.save(model, folder / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    np.savez(folder / "d.npz", image=np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32))


def old_result(folder: Path) -> None:
    """The same, and a result of before."""
    model_and_data(folder)
    collapse(folder)


def collapse(folder: Path) -> None:
    """Collapse, with the plan written beside."""
    from lacoot_deploy import Limit
    from lacoot_deploy import collapse as run

    limit = Limit(count=2)
    run(
        folder / "in.onnx",
        folder / "out.onnx",
        limit=limit,
        criterion="random",
        plan_out=folder / "plan.json",
    )


def measure(folder: Path) -> None:
    """Measure."""
    from lacoot_deploy import DataOptions
    from lacoot_deploy.workflow.measuring import measure as run

    run(folder / "in.onnx", folder / "out.onnx", DataOptions(f"npz:{folder / 'd.npz'}"), latency=False)


def trained(folder: Path) -> None:
    """A finished training run."""
    train(folder)


def train(folder: Path) -> None:
    """Train, or go on with it."""
    import torch

    from lacoot_deploy import train as run
    from lacoot_deploy.training.recipe import Recipe

    torch.set_num_threads(1)
    resume = (folder / "run" / "checkpoint.safetensors").exists()
    run(Recipe(**RECIPE), folder / "run", resume=resume)


def export(folder: Path) -> None:
    """Export the run's checkpoint."""
    import torch

    from lacoot_deploy import export as run

    torch.set_num_threads(1)
    run(folder / "run", folder / "out.onnx")


COMMANDS = {
    "collapse": Command(model_and_data, collapse, ("out.onnx", "out.onnx.data", "plan.json"), 0.25),
    "collapse again": Command(old_result, collapse, ("out.onnx", "out.onnx.data", "plan.json"), 0.25),
    "measure": Command(model_and_data, measure, ("out.onnx", "out.onnx.data"), 0.25),
    "train": Command(lambda folder: None, train, ("run",), 0.125, same=False),
    "export": Command(trained, export, ("out.onnx",), 0.125),
}


def contents(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Bytes of all files below a folder, outputs and what is temporary left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name.split("/")[0] not in without and STAGING_SUFFIX not in name:
            found[name] = path.read_bytes()
    return found


def started(command: Command, folder: Path) -> int:
    """Fork a process that runs the command."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        command.run(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a process; its exit code, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def whole(name: str, folder: Path, command: Command, wanted: dict[str, bytes]) -> None:
    """Every output is absent or whole."""
    if name == "train":
        run = folder / "run"
        if (run / "checkpoint.safetensors").exists():
            from lacoot_deploy.training.checkpoint import read_checkpoint

            assert read_checkpoint(run).header.epoch <= RECIPE["epochs"]
        if (run / "model.onnx").exists():
            assert read_manifest(load_model(run / "model.onnx")) is not None
        return
    found = contents(folder)
    for output in command.outputs:
        if output.endswith(".data"):
            continue
        if output in found:
            assert found[output] == wanted[output], f"{output} is neither absent nor whole"
            if f"{output}.data" in wanted:
                assert found[f"{output}.data"] == wanted[f"{output}.data"], f"{output} beside other data"
            if output == "plan.json":
                parse_plan(found[output].decode())
            else:
                load_model(folder / output)


def temporary(folder: Path) -> list[str]:
    """What is left of a killed process."""
    return [p.relative_to(folder).as_posix() for p in folder.rglob(f"*{STAGING_SUFFIX}")]


def strange(folder: Path, known: set[str]) -> list[str]:
    """Files that are neither inputs, outputs nor named as temporary."""
    return [name for name in contents(folder) if name not in known and not name.startswith("run/")]


def trial(
    name: str, command: Command, base: Path, wanted: dict[str, bytes], seconds: float, chance: random.Random
) -> str:
    """One killing; how it ended."""
    with tempfile.TemporaryDirectory(dir=base.parent) as place:
        folder = Path(place) / "w"
        shutil.copytree(base, folder)
        inputs = contents(folder, without=command.outputs)
        pid = started(command, folder)
        time.sleep(chance.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        assert contents(folder, without=command.outputs) == inputs, "an input changed"
        whole(name, folder, command, wanted)
        assert not strange(folder, {*inputs, *command.outputs}), "an unknown file is left"
        left = temporary(folder)
        assert all(Path(path).name.startswith(".") for path in left)
        assert ended(started(command, folder)) == 0, "the command does not run again"
        assert not temporary(folder), f"{temporary(folder)} is left after another run"
        assert contents(folder, without=command.outputs) == inputs, "an input changed when run again"
        final = contents(folder)
        if command.same:
            assert all(final[output] == wanted[output] for output in command.outputs), "another result"
        else:
            whole(name, folder, command, wanted)
            assert final["run/model.onnx"]
            assert final["run/metrics.jsonl"].count(b"\n") == RECIPE["epochs"]
        return ("finished" if code == 0 else "killed") + (", left something" if left else "")


def main() -> int:
    """Kill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(COMMANDS))
    options = parser.parse_args()
    failed = 0
    for name, command in COMMANDS.items():
        if options.only not in (None, name):
            continue
        chance = random.Random(f"{name} {options.seed}")
        with tempfile.TemporaryDirectory(prefix="lacoot-kills-") as place:
            base, reference = Path(place) / "base", Path(place) / "reference"
            base.mkdir()
            # In a process of its own, so that the one that forks has run nothing and started no thread.
            assert ended(started(Command(command.prepare, command.prepare, (), 0), base)) == 0
            seconds = []
            for _ in range(2):
                shutil.rmtree(reference, ignore_errors=True)
                shutil.copytree(base, reference)
                began = time.perf_counter()
                assert ended(started(command, reference)) == 0
                seconds.append(time.perf_counter() - began)
            wanted = contents(reference)
            met: dict[str, int] = {}
            for number in range(max(1, round(options.moments * (1 if options.only else command.share)))):
                try:
                    how = trial(name, command, base, wanted, 1.1 * min(seconds), chance)
                except AssertionError as error:
                    failed += 1
                    how = f"FAILED: {error}"
                    print(f"{name}, moment {number}: {error}", flush=True)
                met[how] = met.get(how, 0) + 1
            print(f"{name} ({min(seconds):.2f} s): {met}", flush=True)
    return 1 if failed else 0


def imports() -> None:
    """What the commands import, so that a killed process was at work and not importing."""
    for name in (
        "selection.planning",
        "training.run",
        *(f"workflow.{n}" for n in ("collapsing", "measuring", "training")),
    ):
        importlib.import_module(f"lacoot_deploy.{name}")
    for name in ("onnx_graphsurgeon", "onnxruntime", "torch.onnx"):
        importlib.import_module(name)


if __name__ == "__main__":
    imports()
    sys.exit(main())
