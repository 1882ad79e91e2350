"""Limits, criteria and searches, from a network whose blocks are known to matter by degrees."""

from __future__ import annotations

import numpy as np
import pytest
from builders import random_feeds, residual_mlp, run

from lacoot_deploy.data import Samples
from lacoot_deploy.data.types import join
from lacoot_deploy.errors import NothingToCollapseError, UsageError
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.manifest import BlockRecord, DistanceRecord, parse_plan, to_json
from lacoot_deploy.selection.criteria import CRITERIA
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.matching import match_records, resolve_plan
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.selection.planning import Evidence, Limit, make_plan
from lacoot_deploy.selection.search import greedy
from lacoot_deploy.selection.trials import Trials


@pytest.fixture(scope="module")
def network():
    """Four blocks whose branches were scaled so that layer2 matters least, then layer0, layer3, layer1."""
    from onnx import numpy_helper

    model, blocks = residual_mlp(4, seed=3)
    for name, scale in (("layer2.w2", 0.001), ("layer0.w2", 0.05), ("layer3.w2", 0.7), ("layer1.w2", 3.0)):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(scale), name))
    feeds = random_feeds(model, batch=600, seed=5)
    labels = run(model, feeds)[0].argmax(axis=1).astype(np.int64)
    return model, blocks, Samples(feeds, labels)


def gone(plan):
    return [step.block for step in plan.steps]


@pytest.mark.parametrize("search", ["ranked", "greedy"])
def test_the_blocks_that_matter_least_go_first(network, search):
    model, blocks, samples = network
    plan = make_plan(
        model,
        blocks,
        Limit(count=2),
        options=SearchOptions(criterion="output", search=search),
        evidence=Evidence.split(samples),
    )
    assert gone(plan) == ["layer2", "layer0"]
    assert plan.search == search
    assert plan.evidence.confirming.collapsed.samples == 300


def test_the_loss_criterion_ranks_as_removing_each_block_by_hand_does(network):
    model, blocks, samples = network
    evidence = Evidence.split(samples)
    choose = join(evidence.fit, evidence.choose)  # nothing is fitted, so that part can choose as well

    def loss(block):
        logits = run(collapse_blocks(model, [Cut(block, Form.BYPASS)]), dict(choose.feeds))[0].astype(
            np.float64
        )
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -np.log(probabilities[np.arange(len(logits)), choose.labels]).mean()

    expected = sorted(blocks, key=loss)
    plan = make_plan(
        model,
        blocks,
        Limit(count=4),
        options=SearchOptions(criterion="loss", search="ranked", repair="none"),
        evidence=Evidence.split(samples),
    )
    assert gone(plan) == [block.name for block in expected]
    assert plan.steps[0].evidence.score == pytest.approx(loss(expected[0]), rel=1e-5)


def test_a_drop_limit_goes_as_deep_as_it_holds_and_is_confirmed_on_other_samples(network):
    model, blocks, samples = network
    plan = make_plan(
        model,
        blocks,
        Limit(max_drop=2.0),
        options=SearchOptions(repair="none"),
        evidence=Evidence.split(samples),
    )
    assert gone(plan)[:2] == ["layer2", "layer0"]
    assert len(gone(plan)) < 4
    confirming = plan.evidence.confirming
    assert confirming.drop_points <= 2.0
    low, high = confirming.ci95
    assert low <= confirming.drop_points <= high
    # An independent count of the confirmed accuracy.
    confirm = Evidence.split(samples).confirm
    cuts, _ = resolve_plan(plan, blocks)
    outputs = run(collapse_blocks(model, cuts), dict(confirm.feeds))[0]
    assert confirming.collapsed.accuracy == pytest.approx(100 * np.mean(outputs.argmax(1) == confirm.labels))


def test_without_labels_agreement_with_the_dense_network_stands_in_and_is_called_that(network):
    model, blocks, samples = network
    unlabelled = Samples(samples.feeds)
    plan = make_plan(model, blocks, Limit(max_drop=2.0), evidence=Evidence.split(unlabelled))
    assert plan.criterion == "output"
    assert plan.evidence.judged_by == "agreement"
    assert "accuracy" not in plan.evidence.confirming.collapsed.model_dump()


def test_a_speedup_that_no_removal_reaches_is_an_error_that_names_the_best(network):
    model, blocks, samples = network
    with pytest.raises(
        NothingToCollapseError, match=r"--min-speedup 100 .* 4 blocks gone.* 1\.1 times"
    ) as error:
        make_plan(
            model,
            blocks,
            Limit(min_speedup=100.0),
            SearchOptions(repair="none"),
            evidence=Evidence.split(samples),
            trials=Trials(speedup=lambda shorter: 1.1),
        )
    assert error.value.exit_code == 5


def test_a_drift_limit_needs_no_classes(network):
    model, blocks, samples = network
    plan = make_plan(
        model,
        blocks,
        Limit(max_drift=0.05),
        options=SearchOptions(repair="none"),
        evidence=Evidence.split(samples),
    )
    assert gone(plan) == ["layer2", "layer0"][: len(gone(plan))]
    assert plan.evidence.confirming.collapsed.drift <= 0.05


def test_a_limit_that_nothing_keeps_is_an_error_of_its_own(network):
    model, blocks, samples = network
    with pytest.raises(NothingToCollapseError, match="exceeds the limit"):
        make_plan(
            model,
            blocks,
            Limit(max_drift=1e-9),
            options=SearchOptions(repair="none"),
            evidence=Evidence.split(samples),
        )
    with pytest.raises(NothingToCollapseError, match="4 blocks"):
        make_plan(model, blocks, Limit(count=5))


def distances(**values):
    return {name: {"mswd": DistanceRecord(value=value)} for name, value in values.items()}


def test_recorded_distances_rank_without_data(network):
    model, blocks, _ = network
    recorded = distances(layer0=0.2, layer1=0.9, layer2=0.1)
    assert gone(make_plan(model, blocks, Limit(count=2), distances=recorded)) == ["layer2", "layer0"]
    assert gone(make_plan(model, blocks, Limit(max_distance=0.15), distances=recorded)) == ["layer2"]
    with pytest.raises(NothingToCollapseError, match="only 3 blocks"):
        make_plan(model, blocks, Limit(count=4), distances=recorded)
    with pytest.raises(NothingToCollapseError, match="at most"):
        make_plan(model, blocks, Limit(max_distance=0.01), distances=recorded)


def test_named_blocks_go_and_no_other(network):
    model, blocks, samples = network
    assert gone(make_plan(model, blocks, Limit(blocks=("layer3", "layer1")))) == ["layer3", "layer1"]
    repaired = make_plan(
        model,
        blocks,
        Limit(blocks=("layer1",)),
        options=SearchOptions(repair="affine"),
        evidence=Evidence.split(samples),
    )
    assert repaired.steps[0].repair is not None
    with pytest.raises(UsageError, match="Did you mean layer1"):
        make_plan(model, blocks, Limit(blocks=("layer11",)))


def test_options_that_contradict_each_other_are_said_to(network):
    model, blocks, samples = network
    with pytest.raises(UsageError, match="exactly one"):
        Limit(count=1, max_drop=1.0)
    with pytest.raises(UsageError, match="give --data"):
        make_plan(model, blocks, Limit(max_drop=1.0))
    with pytest.raises(UsageError, match="fitted on data"):
        make_plan(model, blocks, Limit(count=1), options=SearchOptions(repair="affine"))
    with pytest.raises(UsageError, match="needs labelled data"):
        make_plan(
            model,
            blocks,
            Limit(count=1),
            options=SearchOptions(criterion="loss"),
            evidence=Evidence.split(Samples(samples.feeds)),
        )
    with pytest.raises(UsageError, match="no criterion 'best'"):
        make_plan(model, blocks, Limit(count=1), options=SearchOptions(criterion="best"))
    with pytest.raises(UsageError, match="too few"):
        Evidence.split(samples.take(np.arange(5)))


def test_the_random_control_is_random_by_seed_alone(network):
    model, blocks, _ = network
    orders = {
        tuple(
            gone(
                make_plan(model, blocks, Limit(count=4), options=SearchOptions(criterion="random", seed=seed))
            )
        )
        for seed in range(8)
    }
    assert len(orders) > 3
    again = make_plan(model, blocks, Limit(count=4), options=SearchOptions(criterion="random", seed=0))
    assert gone(again) == gone(
        make_plan(model, blocks, Limit(count=4), options=SearchOptions(criterion="random", seed=0))
    )


def test_a_replayed_plan_gives_the_same_bytes(network):
    model, blocks, samples = network
    plan = make_plan(
        model,
        blocks,
        Limit(count=2),
        options=SearchOptions(repair="linear"),
        evidence=Evidence.split(samples),
    )
    again = parse_plan(to_json(plan))
    first, _ = resolve_plan(plan, blocks)
    second, _ = resolve_plan(again, blocks)
    one = collapse_blocks(model, first).SerializeToString(deterministic=True)
    assert one == collapse_blocks(model, second).SerializeToString(deterministic=True)


def test_blocks_are_found_again_by_values_and_by_structure(network):
    _, blocks, _ = network
    shape = list(blocks[0].shape)
    records = [
        BlockRecord(name=f"old{i}", input=b.input, output=b.output, shape=shape) for i, b in enumerate(blocks)
    ]
    by_values = match_records(records, blocks)
    assert [by_values.blocks[f"old{i}"].name for i in range(4)] == [b.name for b in blocks]
    assert len(by_values.notes) == 4
    renamed = [BlockRecord(name=f"old{i}", input=f"i{i}", output=f"o{i}", shape=shape) for i in range(4)]
    by_structure = match_records(renamed, blocks)
    assert by_structure.blocks["old2"].name == "layer2"
    assert "structure" in by_structure.notes[0]
    assert match_records(renamed[:3], blocks).blocks == {}


@pytest.mark.parametrize("criterion", ["loss", "output"])
@pytest.mark.parametrize("repair", ["none", "linear"])
def test_giving_up_early_changes_no_choice(network, criterion, repair):
    model, blocks, samples = network
    evidence = Evidence.split(samples)
    engine = Engine(model, blocks, evidence.fit, evidence.choose, batch_size=32)
    trial = CRITERIA[criterion].trial
    path = greedy(
        engine,
        list(engine.blocks),
        CRITERIA[criterion],
        options=SearchOptions(repair=repair),
        stop=lambda step: False,
    )
    current, left = engine.dense, list(engine.blocks)
    for step in path:
        scores = {n: trial(engine.quality(engine.remove(current, [n], repair=repair))) for n in left}
        best = min(left, key=scores.__getitem__)
        assert step.block == best
        assert step.score == pytest.approx(scores[best], rel=1e-6)
        current = engine.remove(current, [best], repair=repair)
        left.remove(best)


@pytest.fixture(scope="module")
def half_dead():
    """Four blocks, of which layer1 and layer2 add zero."""
    from onnx import numpy_helper

    model, blocks = residual_mlp(4, seed=3)
    for tensor in model.graph.initializer:
        if tensor.name in ("layer1.w2", "layer2.w2"):
            tensor.CopyFrom(
                numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name)
            )
    feeds = random_feeds(model, batch=64, seed=5)
    labels = run(model, feeds)[0].argmax(axis=1).astype(np.int64)
    return model, blocks, Samples(feeds, labels)


def test_blocks_that_do_nothing_go_without_data(half_dead):
    model, blocks, samples = half_dead
    plan = make_plan(model, blocks, Limit(lossless=True))
    assert gone(plan) == ["layer1", "layer2"]
    assert all(step.evidence.model_dump() == {"lossless": True} for step in plan.steps)
    short = collapse_blocks(model, resolve_plan(plan, blocks)[0])
    np.testing.assert_array_equal(run(short, dict(samples.feeds))[0], run(model, dict(samples.feeds))[0])


@pytest.mark.parametrize("search", ["ranked", "greedy"])
def test_blocks_that_do_nothing_go_first(half_dead, search):
    model, blocks, samples = half_dead
    plan = make_plan(
        model,
        blocks,
        Limit(count=3),
        options=SearchOptions(criterion="loss", search=search),
        evidence=Evidence.split(samples),
    )
    assert gone(plan)[:2] == ["layer1", "layer2"]
    assert [step.evidence.lossless for step in plan.steps] == [True, True, None]


def test_without_a_dead_block_lossless_finds_nothing(network):
    model, blocks, _ = network
    with pytest.raises(NothingToCollapseError, match="same for every input"):
        make_plan(model, blocks, Limit(lossless=True))
