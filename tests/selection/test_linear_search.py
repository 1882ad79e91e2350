"""The search for activations, on a network whose activations are known to matter by degrees."""

from __future__ import annotations

import numpy as np
import pytest
from builders import GraphBuilder, random_feeds, residual_cnn, run

from lacoot_deploy.data import Samples
from lacoot_deploy.errors import InputError, NothingToCollapseError, UsageError
from lacoot_deploy.graph.linear import linearise, list_activations, merge_linear
from lacoot_deploy.manifest import Plan, parse_plan, to_json
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.selection import linear_search as search
from lacoot_deploy.selection.limits import Evidence, Limit, LimitRule
from lacoot_deploy.selection.linear_network import LinearNetwork
from lacoot_deploy.selection.trials import Trials

SHIFTS = {"second": 9.0, "third": 2.5, "first": 1.0}
"""What is added before each activation: the more, the more of it is on its linear piece."""


@pytest.fixture(scope="module")
def network():
    g = GraphBuilder(seed=4)
    value = g.input("x", ["N", 6])
    for name in ("first", "second", "third"):
        value = g.op("Gemm", value, g.normal(6, 24), g.weight(np.full(24, SHIFTS[name])))
        value = g.op("Relu", value, output=name)
        value = g.op("Gemm", value, g.normal(24, 6, scale=0.2), g.normal(6))
    g.op("Gemm", value, g.normal(6, 5, scale=2.0), output="y")
    model = g.model({"y": ["N", 5]})
    feeds = random_feeds(model, batch=400, seed=5)
    labels = run(model, feeds)[0].argmax(axis=1).astype(np.int64)
    return model, list_activations(model), Samples(feeds, labels)


def prepared(network, *, fit: str = "affine"):
    model, activations, samples = network
    evidence = Evidence.split(samples)
    return LinearNetwork(
        model, activations, evidence, fit=fit, trials=Trials(runtime=Runtime("cpu"))
    ), evidence


def ruled(network: LinearNetwork, limit: Limit) -> LimitRule:
    return LimitRule(limit, network.dense, thing="activation")


def order(path) -> list[str]:
    return [path_step.items[-1].activation.output for path_step in path]


@pytest.mark.parametrize("criterion", ["entropy", "gaussian", "slope", "output"])
@pytest.mark.parametrize("greedy", [True, False])
def test_every_criterion_finds_the_nearest_to_linear_first(network, criterion: str, greedy: bool) -> None:
    made, _ = prepared(network)
    path = search.search(
        made,
        network[1],
        ruled(made, Limit(count=3)),
        criterion=criterion,
        greedy=greedy,
    )
    assert order(path) == ["second", "third", "first"]
    scores = [step.score for step in path]
    assert scores == sorted(scores) or greedy


def test_the_map_is_the_least_squares_fit_to_what_the_network_gave(network) -> None:
    model, activations, samples = network
    made, evidence = prepared(network)
    path = search.search(made, activations, ruled(made, Limit(count=2)), criterion="slope", greedy=True)
    feeds = dict(evidence.fit.feeds)
    items = {item.activation.output: item for item in path[-1].items}
    shown = linearise(model, [items["second"]])
    for network_, names in ((shown, [items["third"].activation.input]), (model, ["third"])):
        for name in names:
            network_.graph.output.append(type(model.graph.output[0])(name=name))
    x = run(shown, feeds, outputs=[items["third"].activation.input])[0].astype(np.float64)
    y = run(model, feeds, outputs=["third"])[0].astype(np.float64)
    del model.graph.output[-1]
    for channel in range(24):
        slope, intercept = np.polyfit(x[:, channel], y[:, channel], 1)
        assert items["third"].slope[channel] == pytest.approx(slope, rel=1e-3, abs=1e-4)
        assert items["third"].intercept[channel] == pytest.approx(intercept, rel=1e-3, abs=1e-3)
    assert len(samples) == 400


def test_an_affine_map_is_fitted_anew_behind_every_step(network) -> None:
    model, activations, _ = network
    made, _ = prepared(network)
    third, first = activations[2], activations[0]
    alone = search.extended(made, (), third)
    both = search.extended(made, alone, first)
    assert [item.activation.name for item in both] == [third.name, first.name]
    assert not np.array_equal(alone[0].slope, both[0].slope)
    assert len(model.graph.output) == 1


def test_an_affine_map_loses_less_than_the_identity(network) -> None:
    qualities = {}
    for fit in ("identity", "affine"):
        made, _ = prepared(network, fit=fit)
        qualities[fit] = search.chosen_by_user(made, network[1])[-1].quality
    assert qualities["affine"].divergence < qualities["identity"].divergence


def test_a_limit_on_the_drop_holds_on_samples_that_did_not_choose(network) -> None:
    _, activations, _ = network
    made, evidence = prepared(network)
    rule = ruled(made, Limit(max_drop=3.0))
    path = search.search(made, activations, rule, criterion="output", greedy=True)
    kept, found = search.confirm(
        made,
        path,
        rule,
        evidence,
        finish=lambda cut: merge_linear(cut).model,
    )
    assert kept
    assert found.confirming.drop_points <= 3.0 + 1e-9
    assert found.confirming.collapsed.samples == 200
    tight = ruled(made, Limit(max_drift=1e-9))
    path = search.search(made, [activations[0]], tight, criterion="output", greedy=True)
    with pytest.raises(NothingToCollapseError, match="confirming"):
        search.confirm(made, path, tight, evidence, finish=lambda cut: cut)


def test_a_drift_ends_the_search_where_there_are_no_classes(network) -> None:
    made, _ = prepared(network)
    path = search.search(
        made,
        network[1],
        ruled(made, Limit(max_drift=1e-6)),
        criterion="slope",
        greedy=False,
    )
    assert len(path) >= 1
    assert all(step.quality.drift <= 1e-6 for step in path[:-1])


def test_a_speedup_ends_the_search_when_it_is_reached(network) -> None:
    made, _ = prepared(network)
    seen = []

    def speedup(model) -> float:
        seen.append(len(model.graph.node))
        return float(len(seen))

    path = search.search(
        made,
        network[1],
        ruled(made, Limit(min_speedup=2.0)),
        criterion="entropy",
        greedy=False,
        speedup=speedup,
    )
    assert len(path) == len(seen) == 2


def test_giving_up_a_trial_early_changes_no_choice(network) -> None:
    made, _ = prepared(network)
    whole = made.scores("output", (), network[1])
    guess = {name: -score for name, score in whole.items()}
    bounded = made.scores("output", (), network[1], last=guess)
    assert min(bounded, key=bounded.__getitem__) == min(whole, key=whole.__getitem__)
    finite = {name: score for name, score in bounded.items() if np.isfinite(score)}
    assert finite == {name: whole[name] for name in finite}
    quality = made.quality(search.extended(made, (), network[1][0]))
    assert whole[network[1][0].name] == pytest.approx(quality.divergence, rel=1e-6)


def test_a_search_without_a_gain_says_why(network) -> None:
    activations = network[1]
    assert search.candidates(activations, every=False, merge="cheaper", inexact=False) == list(activations)
    model, _ = residual_cnn(2)
    found = list_activations(model)
    with pytest.raises(NothingToCollapseError, match="none of 5 activations"):
        search.candidates(found, every=False, merge="cheaper", inexact=False)
    assert search.candidates(found, every=True, merge="cheaper", inexact=False) == list(found)
    assert 0 < len(search.candidates(found, every=False, merge="always", inexact=True)) < len(found)
    with pytest.raises(NothingToCollapseError, match="no activation"):
        search.candidates([], every=False, merge="cheaper", inexact=False)
    made, _ = prepared(network)
    with pytest.raises(NothingToCollapseError, match="--count 4"):
        search.search(
            made,
            activations,
            ruled(made, Limit(count=4)),
            criterion="entropy",
            greedy=True,
        )


def test_a_plan_survives_json_and_gives_the_same_network(network) -> None:
    model, activations, _ = network
    made, _ = prepared(network)
    path = search.search(
        made,
        activations,
        ruled(made, Limit(count=2)),
        criterion="entropy",
        greedy=True,
    )
    plan = Plan(linearised=search.linearise_records(path), fit="affine", merge="cheaper")
    again = parse_plan(to_json(plan))
    assert again == plan
    items = search.resolve_linearised(again.linearised, activations)
    assert linearise(model, items) == made.network(path[-1].items)
    assert [record.evidence.score for record in again.linearised] == [step.score for step in path]


def test_an_older_plan_is_read_and_makes_nothing_linear() -> None:
    plan = parse_plan('{"schema_version": 1, "criterion": "mswd", "steps": []}')
    assert (plan.linearised, plan.merge, plan.fit, plan.inexact) == ([], None, None, False)


def test_names_and_plans_that_do_not_fit_are_refused(network) -> None:
    model, activations, _ = network
    with pytest.raises(UsageError, match="Did you mean"):
        search.named(["Relu_firts"], activations)
    assert search.named([activations[2].name, activations[0].name], activations) == [
        activations[0],
        activations[2],
    ]
    path = search.chosen_by_user(prepared(network)[0], activations[:1])
    records = search.linearise_records(path)
    gone = list_activations(linearise(model, path[-1].items))
    with pytest.raises(InputError, match="linear already"):
        search.resolve_linearised(records, [a for a in gone if a.output != "first"])
    broken = records[0].model_copy(update={"intercept": None})
    with pytest.raises(InputError, match="slope or an intercept"):
        search.resolve_linearised([broken], activations)
