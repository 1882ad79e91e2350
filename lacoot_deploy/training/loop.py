"""One epoch of training and one pass of validation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional

from lacoot_deploy.errors import VerificationError
from lacoot_deploy.training.data_pipeline import (
    AUGMENT,
    DeviceImages,
    batch_indices,
    epoch_order,
    pieces_of,
    seeded,
)
from lacoot_deploy.training.methods.base import Companion
from lacoot_deploy.training.rates import learning_rate
from lacoot_deploy.training.recipe import Recipe

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class EpochReport:
    """One epoch in figures; a line of metrics.jsonl.

    Attributes:
        epoch: Counted from 1.
        epochs: Epochs of the whole run.
        loss: Mean cross-entropy on augmented training images, without the penalty.
        penalty: Mean distance over blocks and steps; None where none was computed.
        weight: lambda at the epoch's last step.
        train_accuracy: Percent, on augmented training images as they passed.
        val_loss: Mean cross-entropy on validation images.
        val_accuracy: Percent.
        lr: Learning rate of the epoch's last step.
        seconds: What the epoch took.
        remaining: Estimated seconds to the end of the run, or of the round.
        round: Which round of a method of rounds it belongs to; 0 trains the dense network.
    """

    epoch: int
    epochs: int
    loss: float
    penalty: float | None
    weight: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float
    remaining: float
    round: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class Learner:
    """A network and what trains it, on the device.

    Attributes:
        model: Prepared by the accelerator.
        optimizer: Likewise.
        frozen: Modules that stay in evaluation mode.
        teacher: Network whose answers are learned too, in evaluation mode; None for none.
        companion: What the method adds.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    frozen: tuple[nn.Module, ...] = ()
    teacher: nn.Module | None = None
    companion: Companion = Companion()  # noqa: RUF009 (it has no state)


class Trainer:
    """A network trained epoch by epoch on the images of a run."""

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        learner: Learner,
        train: DeviceImages,
        val: DeviceImages,
    ) -> None:
        """Take the parts over.

        Args:
            recipe: The settings.
            accelerator: Holds device, precision and process group.
            learner: The network and what trains it.
            train: Training images.
            val: Validation images.
        """
        self.recipe, self.accelerator, self.learner = recipe, accelerator, learner
        self.train_images, self.val_images = train, val
        self.shares, self.rank = accelerator.num_processes, accelerator.process_index
        self.steps_per_epoch = len(self._batches(0))

    def _batches(self, epoch: int) -> list[torch.Tensor]:
        order = epoch_order(len(self.train_images), seed=self.recipe.seed, epoch=epoch)
        return batch_indices(order, self.recipe.batch_size, pieces=self.shares * self.recipe.accumulate)

    def run_epoch(self, epoch: int, on_step: Callable[[int, int], None]) -> EpochReport:
        """Train and validate one epoch; the time left assumes that epochs take equally long.

        Args:
            epoch: Counted from 0.
            on_step: Called after each step with steps done and steps of the epoch.

        Raises:
            VerificationError: The loss is no longer finite.
        """
        start = time.perf_counter()
        sums, lr = self._train(epoch, on_step)
        loss, added, correct, count = sums.tolist()
        if not torch.isfinite(sums).all():
            raise VerificationError(
                f"The training diverged in epoch {epoch + 1} (the loss is {loss / max(count, 1):g}); lower lr or "
                f"penalty, lengthen warmup or set clip."
            )
        val_loss, val_accuracy = self.validate()
        seconds = time.perf_counter() - start
        companion = self.learner.companion
        weight = companion.weight if companion.distance else 0.0
        return EpochReport(
            epoch=epoch + 1,
            epochs=self.recipe.epochs,
            loss=loss / count,
            penalty=added / count if weight > 0 else None,
            weight=weight,
            train_accuracy=100 * correct / count,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            lr=lr,
            seconds=seconds,
            remaining=seconds * (self.recipe.epochs - epoch - 1),
        )

    def _train(self, epoch: int, on_step: Callable[[int, int], None]) -> tuple[torch.Tensor, float]:
        """Train for one epoch; the sums of `_step` over all processes, and the last learning rate."""
        recipe, learner = self.recipe, self.learner
        learner.model.train()
        for module in learner.frozen:
            module.eval()
        # Whatever the model draws (dropout) depends on epoch and process alone, so no state needs saving.
        torch.manual_seed((recipe.seed * 1_000_003 + epoch) * self.shares + self.rank)
        augmenting = seeded(recipe.seed, epoch, AUGMENT)
        learner.companion.begin_epoch(epoch)
        # Sums stay on the device: reading a number every step would make a GPU wait for Python.
        sums = torch.zeros(4, dtype=torch.float64, device=self.accelerator.device)
        batches = self._batches(epoch)
        steps = recipe.epochs * self.steps_per_epoch
        lr = 0.0
        for index, indices in enumerate(batches):
            step = epoch * self.steps_per_epoch + index
            lr = learning_rate(recipe, step, self.steps_per_epoch)
            for group in learner.optimizer.param_groups:
                group["lr"] = lr * group.get("rate", 1.0)
            learner.companion.begin_step(step / max(steps - 1, 1), lr)
            sums += self._step(indices, augmenting)
            if index % 50 == 49 and self.shares == 1 and not bool(torch.isfinite(sums[0])):
                break
            on_step(index + 1, len(batches))
        return self._total(sums), lr

    def _total(self, sums: torch.Tensor) -> torch.Tensor:
        """The sums over all processes."""
        if self.shares > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def _step(self, indices: torch.Tensor, augmenting: torch.Generator) -> torch.Tensor:
        """One optimiser step; sums over this process's images of loss, what was added, correct answers and ones."""
        recipe, learner = self.recipe, self.learner
        pieces = pieces_of(len(indices), shares=self.shares, parts=recipe.accumulate)
        own = pieces[self.rank]
        offset = own[0].start
        images, labels = self.train_images.augmented(
            indices, recipe.augment, augmenting, slice(offset, own[-1].stop)
        )
        sums = torch.zeros(4, dtype=torch.float64, device=images.device)
        learner.optimizer.zero_grad(set_to_none=True)
        for number, piece in enumerate(own):
            part = slice(piece.start - offset, piece.stop - offset)
            together = sum(process[number].stop - process[number].start for process in pieces)
            last = number == len(own) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(learner.model):
                sums += self._backward(
                    images[part], labels[part], share=together / len(indices), whole=len(indices)
                )
        if recipe.clip is not None:
            self.accelerator.clip_grad_norm_(learner.model.parameters(), recipe.clip)
        learner.optimizer.step()
        learner.companion.after_step()
        return sums

    def _backward(
        self, images: torch.Tensor, labels: torch.Tensor, *, share: float, whole: int
    ) -> torch.Tensor:
        """Forward and backward of one piece of a batch of `whole` images; the sums of `_step`.

        The piece is, over all processes, that share of the batch.
        """
        learner, smoothing = self.learner, self.recipe.label_smoothing
        with learner.companion.watching(), self.accelerator.autocast():
            logits = learner.model(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing, reduction="sum")
        added = learner.companion.added()
        objective = loss
        if learner.teacher is not None:
            share_of_teacher = self.recipe.distill
            soft = self._distance_to_teacher(learner.teacher, images, logits)
            objective = (1 - share_of_teacher) * loss + share_of_teacher * soft
        # The gradients of processes are averaged. Of the losses this wants the sum; what is added allows for it.
        total = objective * (self.shares / whole)
        if added is not None:
            total = total + added * (learner.companion.weight * share)
        self.accelerator.backward(total)
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).sum()
            count = len(images)
            more = loss.new_zeros(()) if added is None else added * count
            parts = (loss, more, correct.float(), loss.new_full((), count))
            return torch.stack([part.detach() for part in parts]).double()

    def _distance_to_teacher(
        self, teacher: nn.Module, images: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        """Divergence of the softened answers from the teacher's, summed over images (Hinton et al., 1503.02531)."""
        with torch.no_grad(), self.accelerator.autocast():
            wanted = teacher(images)
        heat = self.recipe.temperature
        ours, theirs = (functional.log_softmax(scores.float() / heat, 1) for scores in (logits, wanted))
        # Times the square, so that the gradient's size does not depend on the temperature.
        return heat**2 * functional.kl_div(ours, theirs, reduction="sum", log_target=True)

    @torch.no_grad()
    def validate(self, model: nn.Module | None = None) -> tuple[float, float]:
        """Mean cross-entropy and accuracy in percent on the validation images, of this model or another."""
        model = self.learner.model if model is None else model
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        for index, (images, labels) in enumerate(self.val_images.in_order(EVALUATION_BATCH)):
            if index % self.shares != self.rank:
                continue
            with self.accelerator.autocast():
                logits = model(images).float()
            sums[0] += functional.cross_entropy(logits, labels, reduction="sum")
            sums[1] += (logits.argmax(1) == labels).sum()
        loss, correct = (self._total(sums) / len(self.val_images)).tolist()
        return loss, 100 * correct
