"""How far the cut network is from the dense one on a batch: the loss of healing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lacoot_deploy.healing.ends import Pair
from lacoot_deploy.healing.module import GraphModule
from lacoot_deploy.healing.options import HealOptions
from lacoot_deploy.tasks import Task, Truth


@dataclass(frozen=True)
class Batch:
    """Samples on their way through both networks.

    Attributes:
        feeds: What the cut network is given.
        targets: The dense network's values.
        truth: Labels of the samples, where there are any.
    """

    feeds: dict[str, Tensor]
    targets: dict[str, Tensor]
    truth: Truth


class Distance(nn.Module):
    """The cut network with its loss.

    The loss is a weighted sum of means: over the ends of blocks, of the squared error over the variance of the dense
    network's value; the same over the features before the head; of the task's distance between the outputs; of the
    task's cost against the labels.

    Attributes:
        network: The cut network.
    """

    def __init__(
        self,
        network: GraphModule,
        pairs: Sequence[Pair],
        variances: Mapping[str, float],
        task: Task,
        options: HealOptions,
    ) -> None:
        """Keep what the loss is made of.

        Args:
            network: The cut network; it gives the values of all pairs, and the outputs where they count.
            pairs: Values of the cut network and their targets.
            variances: Of the targets, by name.
            task: What the network is for.
            options: The weights of the parts.
        """
        super().__init__()
        self.network = network
        self._task, self._options = task, options
        self._parts = [
            (options.ends, [p for p in pairs if p.kind != "features"]),
            (options.features, [p for p in pairs if p.kind == "features"]),
        ]
        self._scale = {pair.target: 1.0 / variances[pair.target] for pair in pairs}

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch, a number."""
        found = self.network.values(batch.feeds)
        total: Any = 0.0
        for weight, pairs in self._parts:
            if weight and pairs:
                errors = [self._error(found[p.value], batch.targets[p.target], p) for p in pairs]
                total = total + weight * torch.stack(errors).mean()
        outputs = {name: found[name] for name in self._task.outputs if name in found}
        dense = {name: batch.targets[name] for name in outputs if name in batch.targets}
        if self._options.answers:
            costs = self._task.torch_costs(outputs, batch.truth.unlabelled(), dense)
            total = total + self._options.answers * costs.mean()
        if self._options.labels and batch.truth.labels:
            total = total + self._options.labels * self._task.torch_costs(outputs, batch.truth, dense).mean()
        assert isinstance(total, Tensor)
        return total

    def _error(self, value: Tensor, target: Tensor, pair: Pair) -> Tensor:
        return (value.float() - target.float()).square().mean() * self._scale[pair.target]


def wanted_values(pairs: Sequence[Pair], task: Task, options: HealOptions) -> tuple[str, ...]:
    """The values of the cut network that the loss reads."""
    outputs = task.outputs if options.answers or options.labels else ()
    return tuple(dict.fromkeys([*(pair.value for pair in pairs), *outputs]))
