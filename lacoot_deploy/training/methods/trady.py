"""TraDy (2510.19675): fine-tuning under a memory budget; layers chosen beforehand, channels drawn anew each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.training.budget.samplers import SAMPLERS, Chosen, Draw, Norms, check_budget, keep_layers
from lacoot_deploy.training.budget.thrifty import Thrifty, make_thrifty, norms_behind
from lacoot_deploy.training.budget.units import SLOT_BYTES, Layer, chosen_slots, find_layers, total_slots
from lacoot_deploy.training.data_pipeline import METHOD, DeviceImages, epoch_order, seeded
from lacoot_deploy.training.methods.base import Companion, Method, MethodSettings, Surroundings

FREE = ("sparse-update", "everything", "head")
"""Samplers that ask for no budget."""


class TradySettings(MethodSettings):
    """The budget, and who spends it.

    Attributes:
        budget: Slots, counted for one sample as published: numbers that the chosen channels' activations and weight
            gradients take. None where `memory` says it, or for samplers without.
        memory: The same in bytes of float32, for a step of a whole batch.
        sampler: `trady`, `medyate`, `static`, `full` (all layers at random), `oracle` (largest gradients),
            `sparse-update` (a scheme file), `everything` or `head`.
        scheme: JSON file of `layers` (path to share of its channels), or of `convolutions` (numbers counted from 0) and
            `ratios`.
        probe: Batches on which gradients are looked at, to choose layers, and by the oracle in every epoch.
    """

    budget: int | None = Field(default=None, ge=1)
    memory: int | None = Field(default=None, ge=1)
    sampler: Literal[
        "trady", "medyate", "static", "full", "oracle", "sparse-update", "everything", "head"
    ] = "trady"
    scheme: str | None = None
    probe: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> TradySettings:
        if self.budget is not None and self.memory is not None:
            raise ValueError("budget and memory say the same thing twice; give one")
        if self.sampler not in FREE and self.budget is None and self.memory is None:
            raise ValueError(f"sampler {self.sampler} needs a budget (slots) or memory (bytes)")
        if (self.sampler == "sparse-update") != (self.scheme is not None):
            raise ValueError("scheme goes with sampler = 'sparse-update', and that with it")
        return self


class Trady(Method[TradySettings]):
    """The head is always trained, by the recipe's optimiser; chosen channels by plain gradient descent at its rate.

    What the paper leaves open is decided so: layers are chosen by gradients on batches of this very data at the
    weights that the training begins with; normalisations keep their running statistics, scales and shifts, and biases
    stay; the drawing ends with the first channel that does not fit.
    """

    layers: tuple[Layer, ...] = ()
    head: str = ""
    scheme: Mapping[str, float] = {}
    behind: Mapping[str, str] = {}

    def __init__(self, settings: TradySettings) -> None:
        """Nothing is chosen yet."""
        super().__init__(settings)
        self.kept: tuple[str, ...] = ()
        self.last: dict[str, torch.Tensor] = {}

    def remember(self) -> dict[str, Any]:
        """The layers chosen, and the norms last seen of channels."""
        seen = {
            path: [v if v < float("inf") else None for v in ns.tolist()] for path, ns in self.last.items()
        }
        return {"kept": list(self.kept), "last": seen}

    def recall(self, remembered: dict[str, Any]) -> None:
        """Likewise."""
        self.kept = tuple(remembered["kept"])
        for path, values in remembered["last"].items():
            known = [float("inf") if v is None else v for v in values]
            self.last[path] = torch.tensor(known, dtype=torch.float64)

    def examine(self, model: nn.Module, example: torch.Tensor, around: Surroundings) -> None:
        """Find the layers and what they cost."""
        self.layers, self.head = find_layers(model, example)
        self.behind = norms_behind(model, example)
        samples, budget = self.spending(around)
        if self.settings.sampler not in FREE:
            check_budget(self.layers, budget, samples)
        if self.settings.scheme is not None:
            self.scheme = read_scheme(Path(self.settings.scheme), self.layers)
        around.note(
            f"Channels of {len(self.layers)} layers can be trained, {total_slots(self.layers):,} slots for a sample; "
            f"the head is {self.head}."
        )

    def spending(self, around: Surroundings) -> tuple[int, int]:
        """Samples for which slots are counted, and slots that may be spent."""
        if self.settings.memory is not None:
            return around.batch, self.settings.memory // SLOT_BYTES
        return 1, self.settings.budget or 0

    def accompany(self, model: nn.Module, around: Surroundings) -> Companion:
        """Thrifty layers in the places of the network's own, and channels chosen for every epoch."""
        thrifty = make_thrifty(model, tuple(layer.path for layer in self.layers), self.behind)
        model.get_submodule(self.head).requires_grad_(True)
        return Budget(self, model, thrifty, around)


class Budget(Companion):
    """Draws channels for every epoch and trains them."""

    def __init__(
        self, method: Trady, model: nn.Module, thrifty: dict[str, Thrifty], around: Surroundings
    ) -> None:
        """Take the parts over."""
        self.method, self.model, self.thrifty, self.around = method, model, thrifty, around
        self.rate = 0.0

    def begin_epoch(self, epoch: int) -> None:
        """Draw the channels of an epoch."""
        method, sampler = self.method, self.method.settings.sampler
        if not method.kept and sampler in ("trady", "medyate", "static"):
            method.kept = self._kept_layers()
            self.around.note(
                f"{len(method.kept)} of {len(method.layers)} layers have 97 % of the gradient for their cost."
            )
        turn = 0 if sampler == "static" else epoch
        samples, budget = method.spending(self.around)
        draw = Draw(
            layers=method.layers,
            kept=method.kept,
            budget=budget,
            samples=samples,
            generator=seeded(self.around.seed, turn, METHOD),
            norms=lambda: self._norms(epoch),
            last=method.last,
            scheme=method.scheme,
        )
        chosen = SAMPLERS[sampler](draw)
        for path, layer in self.thrifty.items():
            layer.choose(chosen.get(path, torch.empty(0, dtype=torch.int64)))
        if epoch == 0:
            self._tell(chosen)

    def begin_step(self, done: float, rate: float) -> None:
        """Chosen channels learn at the rate of the head."""
        self.rate = rate

    def after_step(self) -> None:
        """Train the chosen channels; what MeDyate wants to know of them is kept."""
        for path, layer in self.thrifty.items():
            if layer.slice_grad is None:
                continue
            if self.method.settings.sampler == "medyate":
                unseen = torch.full(
                    (layer.weight.shape[1 - int(layer.depthwise)],), torch.inf, dtype=torch.float64
                )
                self.method.last.setdefault(path, unseen)[layer.chosen.cpu()] = layer.norms().cpu()
            layer.step(self.rate)

    def _tell(self, chosen: Chosen) -> None:
        slots = chosen_slots(self.method.layers, chosen)
        count = sum(len(channels) for channels in chosen.values())
        self.around.note(f"The first epoch trains {count} channels of {len(chosen)} layers, {slots:,} slots.")

    def _kept_layers(self) -> tuple[str, ...]:
        """RGN_i = sum_c norm_c / (C_W + C_A); for MeDyate ||dL/dW_i|| / sum_c (C_W + C_A)."""
        norms, scores = self._norms(0), {}
        for layer in self.method.layers:
            found, cost = norms[layer.path], layer.cost()
            whole = self.method.settings.sampler == "medyate"
            scores[layer.path] = float(found.norm() / layer.channels if whole else found.sum()) / cost
        return keep_layers(scores)

    def _norms(self, epoch: int) -> Norms:
        """Norm of the full gradient of every channel, summed over the probe's batches."""
        images, found = self.around.images(), dict[str, torch.Tensor]()
        training = self.model.training
        self.model.train()
        for layer in self.method.layers:
            self.thrifty[layer.path].choose(torch.arange(layer.channels))
        for inputs, labels in probe_batches(images, self.around, epoch, self.method.settings.probe):
            functional.cross_entropy(self.model(inputs).float(), labels).backward()  # type: ignore[no-untyped-call]
            for path, thrifty in self.thrifty.items():
                found[path] = found.get(path, torch.zeros(())) + thrifty.norms().cpu()
                thrifty.slice_grad = None
        self.model.zero_grad(set_to_none=True)
        self.model.train(training)
        return found


def probe_batches(images: DeviceImages, around: Surroundings, epoch: int, count: int) -> Any:
    """A few batches of the epoch's order, without augmentation."""
    order = epoch_order(len(images), seed=around.seed, epoch=epoch)
    for indices in list(torch.split(order, around.batch))[:count]:
        yield images.batch(indices)


def read_scheme(path: Path, layers: tuple[Layer, ...]) -> dict[str, float]:
    """Shares of the channels of layers, from a scheme file.

    Raises:
        InputError: It cannot be read.
        UsageError: It is for another network.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        shares = (
            data["layers"]
            if "layers" in data
            else dict(zip(data["convolutions"], data["ratios"], strict=True))
        )
        wanted = {str(name): float(share) for name, share in shares.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"The scheme {path} cannot be read ({error}); it is JSON of layers, or of convolutions and ratios."
        ) from None
    names = {str(number): layer.path for number, layer in enumerate(layers)} | {
        ly.path: ly.path for ly in layers
    }
    for name, share in wanted.items():
        if name not in names or not 0 < share <= 1:
            raise UsageError(
                f"The scheme {path} is for another network: it wants {share:g} of layer {name}, and this one has "
                f"{len(layers)} layers, such as {layers[0].path}."
            )
    return {names[name]: share for name, share in wanted.items()}
