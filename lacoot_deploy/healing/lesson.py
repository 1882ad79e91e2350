"""Everything that is settled before the first step: what is matched, what is trained, what the dense network says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lacoot_deploy.data.options import ANY_TASK, TaskOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.healing.answers import Answers, Arrays
from lacoot_deploy.healing.distance import Batch, Distance, wanted_values
from lacoot_deploy.healing.ends import Head, Likeness, Pair, find_head, head_weights, likeness, pair_ends
from lacoot_deploy.healing.equality import check_equal, check_gradients
from lacoot_deploy.healing.module import GraphModule, graph_module
from lacoot_deploy.healing.near import frontier, near_holes
from lacoot_deploy.healing.network import Network
from lacoot_deploy.healing.options import FEW, HealOptions
from lacoot_deploy.healing.supply import check_finite, split_held_back
from lacoot_deploy.healing.weights import dependents, trainable_weights
from lacoot_deploy.runtime.evaluate import fixed_batch
from lacoot_deploy.runtime.exposed import ExposedSession
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.tasks import Judge, Quality, Truth
from lacoot_deploy.tasks.belief import require_belief, try_labels
from lacoot_deploy.tasks.judge import relative_rms

ALIKE = 0.5
"""A file of which at least that share of nodes are the dense one's is a cut of it."""


@dataclass
class Lesson:
    """What healing works with.

    Attributes:
        cut: The network that is healed.
        pairs: Values that are matched.
        weights: Names of the weights that are trained.
        distance: The cut network with its loss.
        evaluator: The cut network with its outputs; it shares the weights.
        answers: The dense network's values on the samples that train.
        prefix: Values of the frozen part of the cut network on them; None where there is none.
        train: The samples that train.
        held: The samples that judge.
        held_prefix: Values of the frozen part on those.
        judge: Judges outputs on them.
        start: The cut network's quality there.
        batch: Samples of a step.
        notes: What a reader should know.
    """

    cut: Network
    pairs: tuple[Pair, ...]
    weights: tuple[str, ...]
    distance: Distance
    evaluator: GraphModule
    answers: Answers
    prefix: Answers | None
    train: Samples
    held: Samples
    held_prefix: Answers | None
    judge: Judge
    start: Quality
    batch: int
    notes: list[str] = field(default_factory=list)

    def feeds(self, samples: Samples, prefix: Answers | None, where: NDArray[np.int64] | None) -> Arrays:
        """What the cut network is given for some samples."""
        wanted = set(self.evaluator.input_names)
        feeds = {name: values for name, values in samples.feeds.items() if name in wanted}
        return feeds if prefix is None else feeds | prefix.of(where, samples.feeds)

    def batch_of(
        self, samples: Samples, where: NDArray[np.int64] | None, device: torch.device | str
    ) -> Batch:
        """A batch with the dense network's values, on a device."""
        targets = self.answers.of(where, samples.feeds)
        truth = self.judge.task.truth(samples.label_arrays, samples.own_feeds)
        return Batch(
            on_device(self.feeds(samples, self.prefix, where), device),
            on_device(targets, device),
            Truth(
                on_device(truth.labels, device), None if truth.mask is None else _tensor(truth.mask, device)
            ),
        )

    @torch.no_grad()
    def outputs(self, device: torch.device | str = "cpu") -> dict[str, NDArray[Any]]:
        """The network's outputs on the held-back samples, [N, ...] each."""
        found: dict[str, list[NDArray[Any]]] = {}
        total = len(self.held)
        for start in range(0, total, self.batch):
            where = np.arange(start, start + self.batch) % total
            feeds = self.feeds(self.held.take(where), self.held_prefix, where)
            values = self.evaluator.values(on_device(feeds, device))
            for name in self.judge.task.outputs:
                found.setdefault(name, []).append(values[name].float().cpu().numpy()[: total - start])
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def quality(self, device: torch.device | str = "cpu") -> Quality:
        """How good the network is on the held-back samples."""
        return self.judge.judge(self.outputs(device))


def on_device(arrays: Mapping[str, Any], device: torch.device | str) -> dict[str, torch.Tensor]:
    """Arrays as tensors on a device."""
    return {name: _tensor(values, device) for name, values in arrays.items()}


def _tensor(values: Any, device: torch.device | str) -> torch.Tensor:
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    return tensor.to(device)


def prepare(
    dense: Network,
    cut: Network,
    samples: Samples,
    options: HealOptions,
    *,
    task: TaskOptions = ANY_TASK,
    runtime: Runtime = AUTO,
) -> Lesson:
    """Settle everything before the first step.

    Raises:
        InputError: The files do not belong together, there are too few samples, they are not finite, an operator
            cannot be run in PyTorch, or no weight can be trained.
        VerificationError: PyTorch does not give what ONNX Runtime gives.
        ProviderError: As for `open_session`.
    """
    return _Preparation(dense, cut, samples, options, task, runtime).lesson()


class _Preparation:
    def __init__(
        self,
        dense: Network,
        cut: Network,
        samples: Samples,
        options: HealOptions,
        task: TaskOptions,
        runtime: Runtime,
    ) -> None:
        self.dense, self.cut, self.options, self.task, self.runtime = dense, cut, options, task, runtime
        self.notes: list[str] = []
        check_finite(samples.own_feeds, samples.description or "The samples")
        self.train, self.held = split_held_back(samples, options.held_back, options.seed)
        if len(samples) < FEW:
            self.notes.append(
                f"{len(samples)} samples are few: below some {FEW}, what is learnt from them carries over less."
            )
        self.likeness: Likeness = likeness(dense.model, cut.model)

    def lesson(self) -> Lesson:
        weights = trainable_weights(self.cut.graph)
        if not weights:
            raise InputError(f"{self.cut.path} has no weight that can be trained.")
        pairs, head = self._pairs(weights)
        weights = self._chosen(weights, head)
        # What no trained weight reaches stays as it is.
        reached = dependents(self.cut.graph.nodes, weights)
        pairs = [pair for pair in pairs if pair.value in reached]
        dense_session = self._session(self.dense, [pair.target for pair in pairs])
        batch = fixed_batch(dense_session.session.inputs) or min(self.options.batch, len(self.train))
        judge, cut_outputs = self._judge(dense_session, batch)
        start = judge.judge(cut_outputs)
        targets = tuple(dict.fromkeys([*(pair.target for pair in pairs), *judge.task.outputs]))
        answers = Answers(dense_session, targets, self.train, batch=batch, keep=not self.options.augment)
        boundary = frontier(self.cut.graph, weights, [pair.value for pair in pairs] + [*judge.task.outputs])
        prefix, held_prefix = self._prefixes(boundary, batch)
        if prefix is None:
            boundary = ()
        given = (*self.cut.graph.inputs, *boundary)
        evaluator = graph_module(
            self.cut.graph, weights=weights, wanted=judge.task.outputs, given=given, source=self.cut.path
        )
        pairs = self._same_shapes(pairs, answers, batch)
        wanted = wanted_values(pairs, judge.task, self.options)
        network = graph_module(
            self.cut.graph, weights=weights, wanted=wanted, given=given, source=self.cut.path
        )
        network.share_with(evaluator)
        variances = {name: spread.variance for name, spread in answers.spread.items()}
        lesson = Lesson(
            cut=self.cut,
            pairs=tuple(pairs),
            weights=tuple(weights),
            distance=Distance(network, pairs, variances, judge.task, self.options),
            evaluator=evaluator,
            answers=answers,
            prefix=prefix,
            train=self.train,
            held=self.held,
            held_prefix=held_prefix,
            judge=judge,
            start=start,
            batch=batch,
            notes=self.notes,
        )
        self._check(lesson)
        return lesson

    def _session(self, network: Network, values: Sequence[str]) -> ExposedSession:
        outputs = [value.name for value in network.model.graph.output]
        return ExposedSession(network.model, [*outputs, *values], runtime=self.runtime, source=network.path)

    def _pairs(self, weights: Sequence[str]) -> tuple[list[Pair], Head | None]:
        pairs = pair_ends(self.likeness, find_blocks(self.cut.model), self.cut.graph.inputs)
        head = find_head(self.cut.graph, weights, [pair.value for pair in pairs])
        features = [*(head.features if head is not None else ()), *self.options.match]
        values = {name for node in self.cut.graph.nodes for name in node.outputs}
        for name in dict.fromkeys(features):
            known = name in self.likeness.names
            if name in self.options.match and not (known and name in values):
                raise InputError(f"--match {name}: the two files do not both have a value of that name.")
            if known:
                pairs = [pair for pair in pairs if pair.value != name]
                pairs.append(Pair(name, name, "features"))
        if not pairs:
            self.notes.append(
                "No inner values of the two files answer to one another; outputs alone are matched."
            )
            self.options = replace(self.options, answers=self.options.answers or 1.0)
        return pairs, head

    def _chosen(self, weights: list[str], head: Head | None) -> list[str]:
        if head is not None and not self.options.head:
            frozen = set(head_weights(self.cut.graph, weights, head))
            if len(frozen) < len(weights):
                weights = [name for name in weights if name not in frozen]
        if self.options.train == "near":
            weights = near_holes(self.cut, self.dense.graph, self.likeness, weights)
        return weights

    def _judge(self, session: ExposedSession, batch: int) -> tuple[Judge, Arrays]:
        """The judge on the held-back samples, and the cut network's outputs there; the files belong together."""
        cut = self._session(self.cut, ())
        for what, ours, theirs in (
            ("inputs", session.session.inputs, cut.session.inputs),
            ("outputs", self.dense.model.graph.output, self.cut.model.graph.output),
        ):
            one, two = [value.name for value in ours], [value.name for value in theirs]
            if sorted(one) != sorted(two):
                raise InputError(
                    f"{self.cut.path} cannot learn from {self.dense.path}: their {what} differ ({', '.join(two)}; "
                    f"{', '.join(one)})."
                )
        names = [value.name for value in self.dense.model.graph.output]
        huge = 1 << 40
        dense_out = Answers(session, names, self.held, batch=batch, memory=huge).kept
        cut_out = Answers(cut, names, self.held, batch=batch, memory=huge).kept
        if dense_out is None or cut_out is None:
            raise InputError(f"The outputs of {self.dense.path} do not count samples along their first axis.")
        for name, values in dense_out.items():
            if values.shape != cut_out[name].shape:
                raise InputError(
                    f"Output {name} has shape {list(values.shape)} in {self.dense.path} and "
                    f"{list(cut_out[name].shape)} in {self.cut.path}."
                )
        floating = {n: v for n, v in dense_out.items() if v.dtype.kind == "f"}
        self._belongs(floating, cut_out)
        judge = self._fitted(floating)
        belief = try_labels(judge, self.held)
        require_belief(belief, trust=self.task.trust_labels, source=self.held.description)
        if judge.labels:
            self.notes.insert(0, f"{belief.sentence()}.")
        return judge, cut_out

    def _fitted(self, dense: Arrays) -> Judge:
        """The judge; labels that fit no task are left out where they do not train."""
        try:
            return Judge.of(dense, self.held, self.task)
        except InputError as error:
            if self.options.labels or not self.held.label_arrays:
                raise
            self.notes.append(f"The labels are left out: {error}")
            self.held, self.train = (
                replace(samples, labels=None, further_labels={}) for samples in (self.held, self.train)
            )
            return Judge.of(dense, self.held, self.task)

    def _belongs(self, dense: Arrays, cut: Arrays) -> None:
        """Refuse two files of which neither is a cut of the other."""
        if self.options.force or self.likeness.nodes >= ALIKE:
            return
        apart = relative_rms([cut[name] for name in dense], [dense[name] for name in dense])
        raise InputError(
            f"{self.cut.path} is no cut of {self.dense.path}: {100 * self.likeness.nodes:.0f} % of its nodes are the "
            f"same, and their outputs are apart by {apart:.2g} (relative RMS). Use --force to train it on that "
            f"network's answers nevertheless."
        )

    def _prefixes(self, boundary: Sequence[str], batch: int) -> tuple[Answers | None, Answers | None]:
        """Values of the frozen part, which ONNX Runtime computes; None where they do not count samples."""
        if not boundary:
            return None, None
        session = self._session(self.cut, boundary)
        train = Answers(session, boundary, self.train, batch=batch, keep=not self.options.augment)
        if any(not s.shape or s.shape[0] != batch for s in train.spread.values()):
            return None, None
        return train, Answers(session, boundary, self.held, batch=batch)

    def _same_shapes(self, pairs: list[Pair], answers: Answers, batch: int) -> list[Pair]:
        """The pairs whose two values have one shape."""
        session = self._session(self.cut, [pair.value for pair in pairs])
        found = session.run(self.train.take(np.arange(batch) % len(self.train)).feeds)
        good = [
            pair
            for pair in pairs
            if found[pair.value].shape == answers.spread[pair.target].shape
            and found[pair.value].dtype.kind == "f"
        ]
        if not good and not self.options.answers:
            self.options = replace(self.options, answers=1.0)
        return good

    def _check(self, lesson: Lesson) -> None:
        """PyTorch gives what ONNX Runtime gives, and the loss reaches weights."""
        where = np.arange(lesson.batch) % len(self.train)
        samples = self.train.take(where)
        names = lesson.evaluator.output_names
        expected = self._session(self.cut, ()).run(samples.feeds, names)
        feeds = lesson.feeds(samples, lesson.prefix, where)
        if not lesson.prefix:
            check_equal(
                lesson.evaluator, self.cut.graph, feeds, expected, model=self.cut.model, path=self.cut.path
            )
        still = check_gradients(
            lesson.distance.network, lesson.distance(lesson.batch_of(samples, where, "cpu"))
        )
        lesson.weights = tuple(name for name in lesson.distance.network.weights if name not in still)
