"""How a healing ends: the file is written and judged as it is; a network that became no better is not changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.options import portable
from lacoot_deploy.files import staging_folder
from lacoot_deploy.graph.model.io import fingerprint, load_model
from lacoot_deploy.healing.answers import Answers
from lacoot_deploy.healing.course import Outcome
from lacoot_deploy.healing.lesson import Lesson
from lacoot_deploy.healing.network import Network
from lacoot_deploy.healing.options import HealOptions
from lacoot_deploy.healing.patch import write_weights
from lacoot_deploy.healing.verdict import improves
from lacoot_deploy.manifest import HealQuality, HealRecord, Manifest, read_manifest, to_json
from lacoot_deploy.runtime.exposed import ExposedSession
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.tasks import Quality
from lacoot_deploy.version import PRODUCER

MANY = 1 << 40


@dataclass(frozen=True)
class Written:
    """What became of a healing.

    Attributes:
        record: What was done and what it was worth.
        healed: Whether the file holds trained weights; else it is the cut file itself.
        model: The file that was written.
    """

    record: HealRecord
    healed: bool
    model: Path


def write_result(
    lesson: Lesson,
    outcome: Outcome,
    dense: Network,
    target: Path,
    *,
    options: HealOptions,
    runtime: Runtime,
) -> Written:
    """Write the healed network where it is better than the cut one, as ONNX Runtime runs it; else the cut file itself.

    Args:
        lesson: What was trained.
        outcome: How it went.
        dense: The network that was learnt from.
        target: The file to write.
        options: How it was done.
        runtime: Where the written file is judged.

    Raises:
        InputError: The file cannot be written.
        VerificationError: It does not hold what it should.
    """
    cut = lesson.cut
    before = _outputs(cut.path, lesson, runtime)
    after, healed = before, False
    if outcome.weights:
        with staging_folder(target) as folder:
            # A folder of its own: the one around it is locked as long as this goes on.
            trial = folder / "trial" / target.name
            trial.parent.mkdir()
            write_weights(cut.path, trial, outcome.weights)
            after = _outputs(trial, lesson, runtime)
        healed = improves(lesson.judge.judge(after), lesson.start)
    record = _record(lesson, outcome, dense, options, before, after if healed else before)
    if not healed:
        write_weights(cut.path, target, {})
        return Written(record, False, target)
    manifest = read_manifest(cut.model, path=cut.path) or Manifest()
    manifest.healed = [*manifest.healed, record]
    write_weights(cut.path, target, outcome.weights, manifest=to_json(manifest))
    return Written(record, True, target)


def _outputs(path: Path, lesson: Lesson, runtime: Runtime) -> dict[str, NDArray[Any]]:
    """A file's outputs on the held-back samples."""
    model = load_model(path)
    session = ExposedSession(model, [v.name for v in model.graph.output], runtime=runtime, source=path)
    found = Answers(session, lesson.judge.task.outputs, lesson.held, batch=lesson.batch, memory=MANY).kept
    assert found is not None
    return found


def _record(
    lesson: Lesson,
    outcome: Outcome,
    dense: Network,
    options: HealOptions,
    before: dict[str, NDArray[Any]],
    after: dict[str, NDArray[Any]],
) -> HealRecord:
    task, judge = lesson.judge.task, lesson.judge
    first, second = (task.statistics(outputs, judge.truth, judge.dense) for outputs in (before, after))
    gain = task.difference(first, second)
    shapes = {name: lesson.cut.graph.constants[name].tensor.dims for name in lesson.weights}
    quality: Callable[[dict[str, NDArray[Any]]], Quality] = judge.judge
    one, two = quality(before), quality(after)
    return HealRecord(
        dense_sha256=fingerprint(dense.model),
        model_sha256_before=fingerprint(lesson.cut.model),
        weights=len(lesson.weights),
        parameters=int(sum(int(np.prod(dims)) for dims in shapes.values())),
        matched=[pair.value for pair in lesson.pairs],
        data=portable(lesson.train.description),
        samples=len(lesson.train),
        held_back=len(lesson.held),
        task=task.sentence(),
        measure=one.score_name,
        before=_quality(one),
        after=_quality(two),
        gain=-gain.drop,
        gain_ci95=(-gain.high, -gain.low),
        steps=outcome.steps,
        seconds=round(outcome.seconds, 3),
        options=asdict(options),
        producer=PRODUCER,
    )


def _quality(quality: Quality) -> HealQuality:
    return HealQuality(
        score=quality.score,
        agreement=quality.agreement,
        drift=quality.drift,
        divergence=quality.divergence,
    )
