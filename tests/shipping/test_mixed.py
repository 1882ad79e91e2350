"""The search for the layers that stay float32, against networks whose drops are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacoot_deploy.shipping.conversion import CannotConvertError
from lacoot_deploy.shipping.mixed import hold_drop


class Costs:
    """Layers that each cost so many points in int8; both the quantiser and the trials of a search."""

    def __init__(self, costs):
        self.costs = dict(costs)
        self.made = 0

    def without(self, kept):
        self.made += 1
        return Path("+".join(kept) or "none")

    def alone(self, layer):
        return self.costs[layer]

    def outputs(self, path):
        return str(path).split("+")

    def drop(self, kept):
        return sum(cost for layer, cost in self.costs.items() if layer not in kept)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=24), st.integers(0, 400))
def test_as_few_layers_stay_as_the_limit_needs(costs, limit):
    network = Costs({f"l{number}": cost for number, cost in enumerate(costs)})
    found = hold_drop(network, list(network.costs), network, limit)
    ranked = sorted(costs, reverse=True)
    fewest = next(n for n in range(len(costs) + 1) if sum(ranked[n:]) <= limit)
    assert len(found.kept) == fewest
    assert found.drop == network.drop(found.kept) <= limit
    assert found.drop_before == sum(costs)


def test_the_number_of_files_made_grows_with_the_logarithm():
    network = Costs({f"l{number}": 1 for number in range(64)})
    hold_drop(network, list(network.costs), network, 31)
    assert network.made < 20


def test_a_limit_that_nothing_holds_is_said_to_be_so():
    network = Costs({"a": 1.0, "b": 2.0})
    network.drop = lambda kept: 9.0
    with pytest.raises(CannotConvertError, match="even with all 2 layers in float32"):
        hold_drop(network, ["a", "b"], network, 1.0)
