"""The split network gives what the collapsed file gives, however blocks were removed and repaired."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from builders import random_feeds, residual_cnn, residual_mlp, run

from lacoot_deploy.data import Samples
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.selection.engine import Engine


def samples(model, count, seed, labels=None):
    return Samples(random_feeds(model, batch=count, seed=seed), labels)


def make_engine(build, blocks=3, **options):
    model, found = build(blocks, **options)
    return model, Engine(model, found, samples(model, 40, 1), samples(model, 24, 2), batch_size=16)


@pytest.mark.parametrize("repair", ["none", "affine", "affine-ls", "linear", "linear-ot"])
@pytest.mark.parametrize("form", [Form.BYPASS, Form.SHORTCUT])
@pytest.mark.parametrize("build", [residual_mlp, residual_cnn])
def test_every_removal_equals_the_collapsed_model(build, form, repair):
    model, engine = make_engine(build)
    feeds = dict(engine.judge_samples.feeds)
    for size in (1, 2, 3):
        for names in combinations(engine.blocks, size):
            variant = engine.dense
            for name in reversed(names):
                variant = engine.remove(variant, [name], form=form, repair=repair)
            collapsed = collapse_blocks(model, engine.cuts(variant))
            expected = run(collapsed, feeds)[0]
            np.testing.assert_allclose(engine.gather(variant)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_removing_one_by_one_or_at_once_in_any_order_is_the_same():
    _, engine = make_engine(residual_cnn)
    one = engine.remove(engine.dense, ["layer0", "layer2"], repair="affine")
    two = engine.remove(engine.remove(engine.dense, ["layer2"], repair="affine"), ["layer0"], repair="affine")
    np.testing.assert_allclose(
        engine.gather(one)["logits"], engine.gather(two)["logits"], rtol=1e-5, atol=1e-6
    )


def test_neighbours_share_one_map():
    _, engine = make_engine(residual_cnn)
    variant = engine.remove(
        engine.remove(engine.dense, ["layer0"], repair="affine"), ["layer1"], repair="affine"
    )
    kinds = {cut.block.name: cut.repair for cut in engine.cuts(variant)}
    assert kinds["layer0"] is None
    assert kinds["layer1"] is not None


def test_what_lies_before_the_first_change_is_not_run_again():
    _, engine = make_engine(residual_cnn, blocks=6)
    batches = len(engine.dense.values)
    before = engine.runs
    engine.remove(engine.dense, ["layer5"], repair="affine")
    assert engine.runs - before == batches  # only the head lies behind the last block
    before = engine.runs
    engine.remove(engine.dense, ["layer0"], repair="none")
    assert engine.runs - before == 6 * batches


def test_an_affine_repair_brings_the_outputs_nearer():
    _, engine = make_engine(residual_cnn)
    plain = engine.quality(engine.remove(engine.dense, ["layer1"], repair="none"))
    repaired = engine.quality(engine.remove(engine.dense, ["layer1"], repair="affine"))
    assert repaired.drift < plain.drift


def test_memory_is_bounded_by_using_fewer_samples_evenly_spread():
    model, found = residual_cnn(3)
    fit, judge = samples(model, 400, 1), samples(model, 200, 2)
    engine = Engine(model, found, fit, judge, batch_size=16, memory_bytes=1 << 20)
    held = sum(value.nbytes for batch in engine.dense.values for value in batch.values())
    assert held < 1.2 * (1 << 20)
    assert len(engine.fit_samples) < 400
    assert len(engine.judge_samples) < 200
    np.testing.assert_array_equal(engine.judge_samples.feeds["image"][-1], judge.feeds["image"][-1])
    assert len(engine.gather(engine.dense)["logits"]) == len(engine.judge_samples)


def test_a_refitted_network_equals_the_collapsed_file():
    model, engine = make_engine(residual_cnn, 4)
    names = list(engine.blocks)
    variant = engine.refit(engine.remove(engine.dense, [names[1]], repair="affine"))
    assert set(variant.kept) == set(names[2:]), (
        "what lies before the removed block has nothing to be refitted to"
    )
    collapsed = collapse_blocks(model, engine.cuts(variant), engine.refits(variant))
    assert len(collapsed.graph.node) == len(collapse_blocks(model, engine.cuts(variant)).graph.node)
    expected = run(collapsed, dict(engine.judge_samples.feeds))[0]
    np.testing.assert_allclose(engine.gather(variant)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_refitting_brings_blocks_that_stay_closer_to_the_dense_network():
    _, engine = make_engine(residual_cnn, 4)
    name = next(iter(engine.blocks))
    removed = engine.remove(engine.dense, [name], repair="none")
    refitted = engine.refit(removed)

    def error(variant):
        merge = engine.blocks[list(engine.blocks)[-1]].output
        pairs = zip(variant.values, engine.dense.values[: engine.fit_batches], strict=False)
        return sum(float(np.sum((batch[merge] - dense[merge]) ** 2)) for batch, dense in pairs)

    assert error(refitted) < 0.7 * error(removed)


def test_a_refitted_block_can_still_go():
    model, engine = make_engine(residual_cnn, 4)
    names = list(engine.blocks)
    variant = engine.refit(engine.remove(engine.dense, [names[0]], repair="affine"))
    variant = engine.remove(variant, [names[2]], repair="affine")
    assert names[2] not in variant.kept
    collapsed = collapse_blocks(model, engine.cuts(variant), engine.refits(variant))
    expected = run(collapsed, dict(engine.judge_samples.feeds))[0]
    np.testing.assert_allclose(engine.gather(variant)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_branches_that_cannot_take_a_map_stay_as_they_are():
    _, engine = make_engine(residual_mlp, 3)  # a product without a bias has no place for the shift
    removed = engine.remove(engine.dense, ["layer0"], repair="affine")
    assert not engine.refit(removed).kept


@pytest.mark.parametrize("repair", ["none", "affine", "linear"])
def test_a_trial_costs_what_the_network_that_it_tries_costs(repair):
    _, engine = make_engine(residual_cnn, 4)
    parent = engine.refit(engine.remove(engine.dense, ["layer1"], repair="linear"))
    for name in ("layer0", "layer2", "layer3"):
        costs = engine.trial(parent, [name], repair=repair)
        variant = engine.remove(parent, [name], repair=repair)
        np.testing.assert_allclose(costs, engine.judge.costs(engine.gather(variant)), rtol=1e-6)


def test_a_trial_ends_when_it_is_sure_to_cost_more():
    _, engine = make_engine(residual_cnn, 4)
    costs = engine.trial(engine.dense, ["layer0"], repair="none")
    before = engine.runs
    assert engine.trial(engine.dense, ["layer0"], repair="none", bound=costs.mean()) is not None
    whole = engine.runs - before
    assert engine.trial(engine.dense, ["layer0"], repair="none", bound=costs.mean() / 20) is None
    assert engine.runs - before == whole + whole // 2  # the first of two batches was enough to tell


def test_without_fitting_samples_nothing_is_fitted():
    model, found = residual_cnn(3)
    engine = Engine(model, found, None, samples(model, 24, 2), batch_size=16)
    variant = engine.remove(engine.dense, ["layer1"], repair="none")
    expected = run(collapse_blocks(model, engine.cuts(variant)), dict(engine.judge_samples.feeds))[0]
    np.testing.assert_allclose(engine.gather(variant)["logits"], expected, rtol=1e-4, atol=1e-5)
