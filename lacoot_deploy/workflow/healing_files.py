"""`heal`: the dense network's answers are taught to the cut file, and its weights go back into the same graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from lacoot_deploy.data import DataOptions, Samples
from lacoot_deploy.files import check_target
from lacoot_deploy.healing.options import DEFAULTS, HealOptions
from lacoot_deploy.manifest import HealRecord, read_manifest
from lacoot_deploy.progress import Progress
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.workflow.data import samples_for, task_of

if TYPE_CHECKING:
    import onnx

    from lacoot_deploy.healing.supply import Stream


FIRST = 1000
"""Samples that are taken from a source without end to judge by and to begin with, unless `--samples` says otherwise."""


class HealResult(BaseModel):
    """What `heal --json` prints.

    Attributes:
        dense: The network that was learnt from.
        cut: The file that was healed.
        output: The file that was written.
        healed: Whether it holds trained weights; else it is the cut file itself.
        stopped: Why it ended: `steps`, `minutes`, `interrupted` or `not finite`.
        record: What was done and what it was worth; it is in the written file's manifest too.
        notes: What a reader should know.
    """

    schema_version: int = 1
    dense: str
    cut: str
    output: str
    healed: bool
    stopped: str
    record: HealRecord
    notes: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class HealRequest:
    """Everything that `heal` is asked for.

    Attributes:
        dense: The network to learn from.
        cut: The file to heal; it is not changed.
        data: The samples.
        output: The file to write; None for the cut file's name with `.healed.onnx`.
        options: How to heal.
        runtime: Where the networks run in ONNX Runtime.
        resume: Whether to go on with an interrupted healing of the same output.
    """

    dense: Path
    cut: Path
    data: DataOptions
    output: Path | None = None
    options: HealOptions = DEFAULTS
    runtime: Runtime = AUTO
    resume: bool = False

    @property
    def target(self) -> Path:
        """The file to write: `short.onnx` becomes `short.healed.onnx` beside it where none is given."""
        if self.output is not None:
            return self.output
        name = self.cut.stem if self.cut.suffix == ".onnx" else self.cut.name
        return self.cut.with_name(f"{name}.healed.onnx")

    @property
    def state_file(self) -> Path:
        """Where an unfinished healing is kept."""
        return self.target.with_name(self.target.name + ".unfinished")


def run_heal(request: HealRequest, *, progress: Progress | None = None) -> HealResult:
    """Train the weights of a cut file on the dense network's answers, and write the same graph with them.

    The output is the cut file, byte for byte, but for the trained weights and the manifest. A network that did not
    become better on samples that trained nothing is left as it was, and the result says so.

    Args:
        request: What to do.
        progress: Called with (done, total, what).

    Raises:
        InputError: A file or the data cannot be used, the files do not belong together, an operator cannot be run in
            PyTorch, or no weight can be trained.
        VerificationError: PyTorch does not give what ONNX Runtime gives; nothing was trained.
        ProviderError: What was asked for does not run here.
    """
    from lacoot_deploy.healing.course import Course
    from lacoot_deploy.healing.lesson import prepare
    from lacoot_deploy.healing.network import Network
    from lacoot_deploy.healing.result import write_result

    target = request.target
    check_target(target, inputs=[request.dense, request.cut, *request.data.files])
    dense, cut = Network.read(request.dense), Network.read(request.cut)
    samples, stream = heal_samples(dense.model, request)
    task = task_of(read_manifest(dense.model, path=request.dense), request.data)
    lesson = prepare(dense, cut, samples, request.options, task=task, runtime=request.runtime)
    course = Course(lesson, request.options, stream=stream, state_file=request.state_file, progress=progress)
    notes = list(lesson.notes)
    if request.resume and not course.resume():
        notes.append(f"There is no {request.state_file}, so the healing began anew.")
    outcome = course.run()
    notes += _ending(outcome.stopped, outcome.steps, request)
    with tempfile.TemporaryDirectory() as folder:
        # Of several processes the first one writes; what the others make is thrown away.
        place = target if course.main else Path(folder) / target.name
        written = write_result(
            lesson, outcome, dense, place, options=request.options, runtime=request.runtime
        )
    if outcome.stopped in ("steps", "minutes") and course.main:
        request.state_file.unlink(missing_ok=True)
    if not written.healed:
        notes.append(
            "Healing made the network no better on the samples held back, so the output is the cut file itself."
        )
    return HealResult(
        dense=str(request.dense),
        cut=str(request.cut),
        output=str(target),
        healed=written.healed,
        stopped=outcome.stopped,
        record=written.record,
        notes=notes,
    )


def _ending(stopped: str, steps: int, request: HealRequest) -> list[str]:
    if stopped == "interrupted":
        return [
            f"Interrupted after {steps} steps: the best state so far was kept. --resume goes on from there."
        ]
    if stopped == "not finite":
        return [
            f"The loss or its slope was not finite at step {steps + 1}: training ended there, and the best state "
            f"before was kept. A smaller --rate may help."
        ]
    if stopped == "minutes":
        return [f"The time limit of {request.options.minutes:g} minutes ended it after {steps} steps."]
    return []


def heal(
    dense: str | Path,
    cut: str | Path,
    output: str | Path | None = None,
    *,
    data: DataOptions | str,
    options: HealOptions = DEFAULTS,
    runtime: Runtime = AUTO,
    resume: bool = False,
    progress: Progress | None = None,
) -> HealResult:
    """Train the weights of a cut file on the dense network's answers, and write the same graph with them.

        heal("model.onnx", "short.onnx", "healed.onnx", data="npz:calib.npz")

    The output is the cut file, byte for byte, but for the trained weights and the manifest. A network that did not
    become better on samples that trained nothing is left as it was, and the result says so.

    Args:
        dense: The network to learn from, an ONNX file.
        cut: The file to heal, whose inputs and outputs have the same names; it is not changed.
        output: The file to write; by default the cut file's name with `.healed.onnx`.
        data: Samples, labelled or not; text as after `--data`, of which images are the validation split's.
        options: How to heal.
        runtime: Where the networks run in ONNX Runtime.
        resume: Whether to go on with an interrupted healing of the same output.
        progress: Called with (done, total, what).

    Raises:
        InputError: A file or the data cannot be used, the files do not belong together, an operator cannot be run in
            PyTorch, or no weight can be trained.
        VerificationError: PyTorch does not give what ONNX Runtime gives; nothing was trained.
        ProviderError: What was asked for does not run here.
    """
    request = HealRequest(
        Path(dense),
        Path(cut),
        DataOptions.of(data, split="val"),
        None if output is None else Path(output),
        options,
        runtime,
        resume,
    )
    return run_heal(request, progress=progress)


def heal_samples(model: onnx.ModelProto, request: HealRequest) -> tuple[Samples, Stream | None]:
    """The samples to judge by and to learn from, and the source of more where it has no end.

    Raises:
        UsageError: The data options do not make sense together.
        InputError: The data is missing or does not fit the model.
    """
    manifest = read_manifest(model, path=request.dense)
    source = _endless(model, request.data)
    if source is None:
        return samples_for(model, manifest, request.data), None
    from lacoot_deploy.healing.supply import Stream, take_first

    first, _ = take_first(source, request.data.limit or FIRST)
    return first, Stream(source, request.options.batch)


def _endless(model: onnx.ModelProto, data: DataOptions) -> Iterator[Samples] | None:
    """The pieces of a `python:` source that gives an iterator of them; None for any other source."""
    if not data.spec.startswith("python:"):
        return None
    from lacoot_deploy.data.arrays import Reading, samples_from
    from lacoot_deploy.runtime.feeds import model_inputs
    from lacoot_deploy.userfunctions import load_function

    found = load_function(data.spec.removeprefix("python:"), "data source")()
    if not isinstance(found, Iterator):
        return None
    inputs = model_inputs(model)
    reading = Reading(data.spec, inputs, data.sample_axis, data.shared)
    return (samples_from(piece, reading) for piece in found)
