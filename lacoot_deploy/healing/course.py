"""The course of healing: steps, what is kept on the way, and how it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from torch import Tensor, nn

from lacoot_deploy.errors import InputError, ProviderError
from lacoot_deploy.files import atomic_path
from lacoot_deploy.healing.lesson import Lesson
from lacoot_deploy.healing.options import HealOptions
from lacoot_deploy.healing.schedule import Average, Clip, one_cycle, rates, snapshot
from lacoot_deploy.healing.supply import Stream, Supply
from lacoot_deploy.healing.verdict import State, better, improves
from lacoot_deploy.progress import Progress

LOOKS = 8
"""How often the network is judged on the way."""

SPAN = 10.0
"""The running average reaches over one part in that many of the steps."""


@dataclass
class Outcome:
    """How healing went.

    Attributes:
        best: The best state; the start where none was better.
        weights: The weights of the best state by name; empty for the start.
        states: Everything that was judged.
        steps: Steps taken.
        seconds: What they took, over all starts.
        stopped: Why it ended: `steps`, `minutes`, `interrupted` or `not finite`.
    """

    best: State
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    stopped: str = "steps"


class Course:
    """Trains the weights of a lesson.

    Attributes:
        main: Whether this process is the one that writes.
    """

    def __init__(
        self,
        lesson: Lesson,
        options: HealOptions,
        *,
        stream: Stream | None = None,
        state_file: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Make ready.

        Args:
            lesson: What is trained, on what.
            options: How.
            stream: Where new samples come from for ever; None to learn from the lesson's own.
            state_file: Where the state is kept on the way, for `resume`; None to keep none.
            progress: Is told of steps.

        Raises:
            ProviderError: CUDA was asked for and is not there.
        """
        self._lesson, self._options, self._state_file = lesson, options, state_file
        self._progress = progress or (lambda done, total, what: None)
        self._accelerator = accelerator_for(options.device)
        self.main = self._accelerator.is_main_process
        self._device = self._accelerator.device
        network = lesson.distance.network.to(self._device)
        lesson.evaluator.to(self._device)
        network.share_with(lesson.evaluator)
        self._names = [name for name in lesson.weights if network.weights[name].requires_grad]
        self._weights: list[nn.Parameter] = [network.weights[name] for name in self._names]
        peaks = rates(dict(zip(self._names, self._weights, strict=True)), options.rate)
        optimizer = torch.optim.Adam(
            [
                {"params": [w], "lr": peaks[n], "peak": peaks[n]}
                for n, w in zip(self._names, self._weights, strict=True)
            ]
        )
        self._loss, self._optimizer = self._accelerator.prepare(lesson.distance, optimizer)
        self._average = Average(self._weights, span=options.steps / SPAN)
        self._clip = Clip()
        self._stream = stream
        if stream is not None:
            stream.batch = lesson.batch
        start = State(0, "start", lesson.start)
        self._outcome = Outcome(best=start, states=[start])
        self._best: list[Tensor] = []
        self._began = 0.0

    def resume(self) -> bool:
        """Take up the kept state; whether there was one.

        Raises:
            InputError: It belongs to other files or options.
        """
        if self._state_file is None or not self._state_file.exists():
            return False
        try:
            kept = torch.load(self._state_file, map_location=self._device, weights_only=True)
            if kept["names"] != self._names or kept["options"] != _digest(self._options):
                raise InputError(
                    f"{self._state_file} was left by a healing of another file or with other options; remove it, or "
                    f"give the same ones."
                )
            self._set(kept["weights"])
            self._average.values = kept["average"]
            self._optimizer.load_state_dict(kept["optimizer"])
            self._outcome.steps, self._outcome.seconds = kept["steps"], kept["seconds"]
            self._best = kept["best"]
        except (KeyError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise InputError(f"{self._state_file} cannot be taken up again: {error}.") from None
        if self._best:
            self._judge_best()
        return True

    def run(self) -> Outcome:
        """Train to the end, to the time limit, or until interrupted; the best state so far is what comes out."""
        options, outcome = self._options, self._outcome
        supply = self._stream or Supply(
            self._lesson.train,
            batch=self._lesson.batch,
            seed=options.seed + 1_000_003 * outcome.steps,
            augment=options.augment,
            rank=self._accelerator.process_index,
        )
        self._began = time.monotonic() - outcome.seconds
        next_look = self._next_look()
        try:
            while outcome.steps < options.steps:
                done = self._done()
                if done >= 1.0:
                    outcome.stopped = "minutes"
                    break
                if not self._step(supply, done):
                    outcome.stopped = "not finite"
                    break
                outcome.steps += 1
                if self._done() >= next_look or outcome.steps == options.steps:
                    self._look()
                    next_look = self._next_look()
                self._tell()
            else:
                outcome.stopped = "steps"
            if outcome.states[-1].step < outcome.steps and outcome.stopped != "not finite":
                self._look()
        except KeyboardInterrupt:
            outcome.stopped = "interrupted"
        outcome.seconds = time.monotonic() - self._began
        if outcome.best.kind != "start":
            outcome.weights = {
                name: value.float().numpy() if value.dtype != torch.float64 else value.numpy()
                for name, value in zip(self._names, self._best, strict=True)
            }
        return outcome

    def _done(self) -> float:
        """How much of the course is over, by steps or by time, whichever is further; the same in all processes."""
        done = self._outcome.steps / self._options.steps
        if self._options.minutes is not None:
            passed = (time.monotonic() - self._began) / (60.0 * self._options.minutes)
            if self._accelerator.num_processes > 1:
                passed = float(self._accelerator.reduce(torch.tensor(passed, device=self._device), "mean"))
            done = max(done, passed)
        return min(done, 1.0)

    def _next_look(self) -> float:
        return (math.floor(self._done() * LOOKS + 1e-9) + 1) / LOOKS

    def _step(self, supply: Supply | Stream, done: float) -> bool:
        """One step; False where loss or gradients are not finite, and nothing was changed."""
        drawn = supply.draw()
        batch = self._lesson.batch_of(drawn.samples, drawn.where, self._device)
        share = one_cycle(done)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * share
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._options.bf16):
            loss = self._loss(batch)
        self._accelerator.backward(loss)
        length = self._clip(self._weights)
        if not math.isfinite(length):
            self._optimizer.zero_grad()
            return False
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.update()
        return True

    def _look(self) -> None:
        """Judge the weights and their average; keep the best; keep the state for `resume`."""
        self._consider("weights")
        with self._with(self._average.values):
            self._consider("average")
        self._outcome.seconds = time.monotonic() - self._began
        if self._state_file is not None and self.main:
            self._keep()

    def _set(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for weight, value in zip(self._weights, values, strict=True):
                weight.copy_(value)

    @contextmanager
    def _with(self, values: Sequence[Tensor]) -> Iterator[None]:
        """Other weights for the time of a `with`."""
        own = [w.detach().clone() for w in self._weights]
        self._set(values)
        try:
            yield
        finally:
            self._set(own)

    def _consider(self, kind: str) -> None:
        state = State(self._outcome.steps, kind, self._lesson.quality(self._device))
        self._outcome.states.append(state)
        start, best = self._lesson.start, self._outcome.best
        if improves(state.quality, start) and (best.kind == "start" or better(state.quality, best.quality)):
            self._outcome.best = state
            self._best = snapshot(self._weights)

    def _judge_best(self) -> None:
        """Judge the best state of an earlier start again."""
        with self._with(self._best):
            self._consider("average")

    def _keep(self) -> None:
        assert self._state_file is not None
        with atomic_path(self._state_file) as temporary:
            torch.save(
                {
                    "names": self._names,
                    "options": _digest(self._options),
                    "weights": [w.detach() for w in self._weights],
                    "average": self._average.values,
                    "optimizer": self._optimizer.state_dict(),
                    "steps": self._outcome.steps,
                    "seconds": self._outcome.seconds,
                    "best": self._best,
                },
                temporary,
            )

    def _tell(self) -> None:
        best = self._outcome.states[-1].quality
        what = f"healing ({best.score_name} {best.score:.4g}, drift {best.drift:.3g})"
        self._progress(round(1000 * self._done()), 1000, what)


def accelerator_for(device: str) -> Accelerator:
    """The accelerator for a device: CUDA where PyTorch has it, unless the CPU is asked for.

    Raises:
        ProviderError: CUDA is asked for and is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ProviderError("PyTorch sees no CUDA device here; use --device cpu, or auto.")
    # What an earlier training in the same process chose must not decide.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=device == "cpu" or not torch.cuda.is_available())


def _digest(options: HealOptions) -> str:
    """What of the options a resumed healing must share."""
    from dataclasses import asdict

    kept = {key: value for key, value in asdict(options).items() if key not in ("minutes", "device", "force")}
    return repr(sorted(kept.items()))
