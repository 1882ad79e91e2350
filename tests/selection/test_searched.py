"""The search works on every model that ONNX Runtime runs, by default and without repairs."""

from __future__ import annotations

import numpy as np
import pytest
from searched import CASES, _images, fixed_batch

from lacoot_deploy.data import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.runtime.batching import check_samples
from lacoot_deploy.runtime.probe import probe_shapes
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.matching import resolve_plan, resolve_refits
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.selection.planning import Evidence, Limit, make_plan


def blocks_of(model):
    return tuple(block for block in find_blocks(model) if block.collapsible and not block.scope)


@pytest.mark.parametrize("repair", ["auto", "none"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_searched(case, repair):
    model, samples = CASES[case]()
    blocks = blocks_of(model)
    assert blocks
    evidence = Evidence.split(samples)
    plan = make_plan(model, blocks, Limit(count=1), SearchOptions(repair=repair), evidence=evidence)
    assert len(plan.steps) == 1
    shorter = collapse_blocks(model, resolve_plan(plan, blocks)[0], resolve_refits(plan, blocks))
    assert len(shorter.graph.node) < len(model.graph.node)
    batch = Engine(shorter, [], None, samples).batching
    open_session(shorter).run(next(batch.batches(samples)).feeds)
    assert np.isfinite(plan.evidence.confirming.collapsed.drift)


@pytest.mark.parametrize(
    "case", ["fused pre-norm", "fused post-norm", "nested blocks", "batch 4 in a Reshape"]
)
def test_the_pieces_give_what_the_file_gives(case):
    model, samples = CASES[case]()
    engine = Engine(model, blocks_of(model), samples, samples)
    for name in engine.blocks:
        for repair in ("none", "linear"):
            variant = engine.remove(engine.dense, [name], repair=repair)
            shorter = Engine(collapse_blocks(model, engine.cuts(variant)), [], None, samples)
            for output, value in engine.gather(variant).items():
                expected = shorter.gather(shorter.dense)[output]
                np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)


def test_where_the_outer_block_goes_the_inner_one_is_gone():
    model, samples = CASES["nested blocks"]()
    engine = Engine(model, blocks_of(model), samples, samples)
    chains = engine.network.chains
    outer = next(name for name in engine.blocks if chains.inside(name))
    inner = next(iter(chains.inside(outer)))
    without_inner = engine.remove(engine.dense, [inner], repair="none")
    assert outer not in engine.gone(without_inner)
    without_both = engine.remove(without_inner, [outer], repair="none")
    assert [cut.block.name for cut in engine.cuts(without_both)] == [outer]
    alone = engine.remove(engine.dense, [outer], repair="none")
    assert inner in engine.gone(alone)
    for output, value in engine.gather(alone).items():
        np.testing.assert_array_equal(value, engine.gather(without_both)[output])
    with pytest.raises(InputError, match="cannot go once more"):
        engine.remove(alone, [inner], repair="none")


@pytest.mark.parametrize("number", range(0, 24, 5))
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_found_before_the_search_wherever_it_is(number, wrong):
    model, samples = fixed_batch(1)
    values = _images()
    values[number, 1, 2, 3] = wrong
    spoilt = Samples({"x": values})
    with pytest.raises(InputError, match=f"for sample {number}; mend that sample"):
        make_plan(model, blocks_of(model), Limit(count=1), evidence=Evidence.split(spoilt))
    if np.isnan(wrong):
        with pytest.raises(InputError, match=rf"'x' is nan in sample {number} at \[1, 2, 3\]"):
            check_samples(spoilt)
    del samples


def test_a_map_across_channels_is_fitted_only_where_samples_suffice():
    from builders import residual_mlp

    model, blocks = residual_mlp(2, width=300)
    rng = np.random.default_rng(0)
    few, many = (
        Samples({model.graph.input[0].name: rng.normal(size=(count, 300)).astype(np.float32)})
        for count in (40, 200)
    )
    assert not Engine(model, blocks, few, few).suffices("layer0")
    assert Engine(model, blocks, many, few).suffices("layer0")


def test_a_bias_that_comes_through_a_copy_of_another_is_refitted():
    model, samples = CASES["copied weights"]()
    engine = Engine(model, blocks_of(model), samples, samples)
    first, *_, last = engine.blocks
    variant = engine.refit(engine.remove(engine.dense, [first], repair="none"))
    assert last in variant.kept
    shorter = collapse_blocks(model, engine.cuts(variant), engine.refits(variant))
    expected = Engine(shorter, [], None, samples)
    np.testing.assert_allclose(
        engine.gather(variant)["y"], expected.gather(expected.dense)["y"], rtol=1e-3, atol=1e-4
    )


def test_probe_is_not_misled_by_notes():
    model, _ = CASES["stale notes"]()
    block = blocks_of(model)[0]
    assert probe_shapes(model, [block.input])[block.input][1] == block.shape[1]
