"""What the benchmarks share: the parser, the machine, the file of figures, timing in turns.

Imported by its bare name, as every script here is run from this folder or by its path.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.files import atomic_write_text
from lacoot_deploy.machine import describe_machine

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parents[1]
RESULTS = BENCHMARKS / "results"

Clocks = dict[str, dict[str, NDArray[np.float64]]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def machine() -> dict[str, Any]:
    """The machine, its load and the Python that runs here, for the record."""
    return {**describe_machine().model_dump(mode="json"), "python": platform.python_version()}


def command() -> str:
    """The command that makes these figures again, the script by its path in the project."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(REPOSITORY) if script.is_relative_to(REPOSITORY) else Path(script.name)
    return shlex.join(["python", shown.as_posix(), *sys.argv[1:]])


def write(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write a document of figures, whole or not at all; None for nowhere."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(document, indent=1, default=str) + "\n")


def written(path: Path | None, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """The document that an earlier run left there, to add to; else the default."""
    if path is not None and path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return dict(default or {})


def timed(function: Callable[[], object], wait: Callable[[], None] = lambda: None) -> tuple[float, float]:
    """Seconds of wall clock and of this process's processors that one call takes; `wait` waits for the device."""
    wait()
    wall, processor = time.perf_counter(), time.process_time()
    function()
    wait()
    return time.perf_counter() - wall, time.process_time() - processor


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm: int = 2,
    wait: Callable[[], None] = lambda: None,
) -> Clocks:
    """Seconds of each function, once a round in an order that rotates, so that what slows the machine slows all.

    Args:
        functions: What is timed, by name.
        rounds: Timed rounds.
        warm: Rounds before them that do not count.
        wait: Waits until the device has done what it was given.

    Returns:
        For each of `wall` and `cpu` the times [rounds] by name; times of one index are a pair.
    """
    names = list(functions)
    seconds: dict[str, dict[str, list[float]]] = {clock: {n: [] for n in names} for clock in ("wall", "cpu")}
    for index in range(-warm, rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            found = timed(functions[name], wait)
            if index >= 0:
                for clock, value in zip(("wall", "cpu"), found, strict=True):
                    seconds[clock][name].append(value)
    return {clock: {n: np.array(v) for n, v in by.items()} for clock, by in seconds.items()}


def paired_ratio(
    a: NDArray[np.float64], b: NDArray[np.float64], resamples: int = 2000
) -> tuple[float, float, float]:
    """Median of the paired ratios a / b [rounds], and its 95 % bootstrap interval."""
    ratios = np.log(np.asarray(a) / np.asarray(b))
    draws = np.random.default_rng(0).choice(ratios, (resamples, len(ratios)))
    values = (np.median(ratios), *np.quantile(np.median(draws, axis=1), [0.025, 0.975]))
    middle, low, high = (float(np.exp(value)) for value in values)
    return middle, low, high
