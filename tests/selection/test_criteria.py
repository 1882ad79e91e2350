"""Criteria give the scores that they say."""

from __future__ import annotations

import pytest

from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.manifest import DistanceRecord
from lacoot_deploy.selection.criteria import CRITERIA, get_criterion, recorded_scores
from lacoot_deploy.selection.judge import Quality
from lacoot_deploy.selection.names import BLOCK_CRITERIA


def quality(divergence=0.0, loss=None, drift=0.0):
    return Quality(
        samples=10,
        drift=drift,
        divergence=divergence,
        agreement=100.0,
        loss=loss,
        labelled=None,
        measure="accuracy",
    )


def test_every_criterion_has_a_name_and_a_meaning():
    assert list(BLOCK_CRITERIA) == list(CRITERIA)


def test_output_is_the_distance_from_the_dense_networks_answers():
    before = quality()
    assert get_criterion("output").score(before, quality(divergence=0.3, drift=0.1)) == 0.3


def test_loss_needs_labels():
    assert get_criterion("loss").score(quality(loss=1.0), quality(loss=1.5)) == 1.5
    with pytest.raises(UsageError, match="labelled"):
        get_criterion("loss").score(quality(), quality())


def test_latency_weighs_harm_by_the_time_saved():
    rule, before = get_criterion("latency"), quality(loss=1.0)
    cheap, dear = rule.score(before, quality(loss=1.2), 1.0), rule.score(before, quality(loss=1.2), 4.0)
    assert dear < cheap  # the same harm is worth more where it saves more time
    assert rule.score(before, quality(loss=0.9), 4.0) < rule.score(before, quality(loss=0.9), 1.0) < 0
    with pytest.raises(UsageError, match="latency of every block"):
        rule.score(before, quality(loss=1.2))


def test_recorded_distances_leave_out_what_was_not_measured():
    distances = {"a": {"mswd": DistanceRecord(value=0.5)}, "b": {"paired": DistanceRecord(value=0.1)}}
    assert recorded_scores(CRITERIA["mswd"], ["a", "b"], distances) == {"a": 0.5}
    with pytest.raises(InputError, match="measure"):
        recorded_scores(CRITERIA["cosine"], ["a", "b"], distances)
    with pytest.raises(UsageError, match="give --data"):
        recorded_scores(CRITERIA["loss"], ["a"], distances)
