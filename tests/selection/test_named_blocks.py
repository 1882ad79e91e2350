"""Blocks as a user names them: one by one, by a pattern, or as a range; and why none can go, in counts."""

from dataclasses import replace

import pytest
from builders import make_block

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.blocks import Reason
from lacoot_deploy.selection.matching import named_blocks, reason_counts

NAMES = ["layer1.0", "layer1.1", "layer2-a.0", "layer2-a.1", "layer3.0"]


def blocks():
    found = [make_block(name, f"{name}.in", f"{name}.out") for name in NAMES]
    reason = Reason("interior_read", "read", ())
    return [*found[:1], replace(found[1], forms=(), reason=reason), *found[2:]]


@pytest.mark.parametrize(
    ("wish", "fits"),
    [
        (["layer3.0"], ["layer3.0"]),
        (["layer2-a.0"], ["layer2-a.0"]),
        (["layer1.*"], ["layer1.0"]),
        (["layer?-a.[01]"], ["layer2-a.0", "layer2-a.1"]),
        (["layer1.0-layer2-a.0"], ["layer1.0", "layer2-a.0"]),
        (["layer2-a.0-layer3.0", "layer2-a.*"], ["layer2-a.0", "layer2-a.1", "layer3.0"]),
        (["layer1.1"], ["layer1.1"]),
    ],
)
def test_names_patterns_and_ranges(wish, fits):
    assert [block.name for block in named_blocks(wish, blocks())] == fits


@pytest.mark.parametrize(
    ("wish", "said"),
    [("nope.*", "fits the pattern"), ("layer3.0-layer1.0", "comes before"), ("layer1.0-no", "has no block")],
)
def test_what_fits_nothing_is_an_error(wish, said):
    with pytest.raises(UsageError, match=said):
        named_blocks([wish], blocks())


def test_the_reasons_are_counted():
    assert reason_counts(blocks()) == " (1 interior_read; see `inspect`)"
    assert reason_counts(blocks()[:1]) == ""
