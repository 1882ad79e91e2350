"""One rule for every limit: what is within, reached, exceeded or not reached, and what the errors name."""

from __future__ import annotations

import pytest

from lacoot_deploy.errors import NothingToCollapseError, UsageError
from lacoot_deploy.selection.judge import Quality
from lacoot_deploy.selection.limits import Limit, LimitRule, Verdict


def quality(*, accuracy: float = 90.0, drift: float = 0.0) -> Quality:
    return Quality(
        samples=100,
        drift=drift,
        divergence=drift,
        agreement=100.0,
        loss=0.1,
        labelled=accuracy,
        measure="accuracy",
    )


def test_a_ceiling_is_kept_until_it_is_exceeded():
    rule = LimitRule(Limit(max_drop=2.0), quality())
    assert rule.step(quality(accuracy=89.0)) is Verdict.WITHIN
    assert rule.step(quality(accuracy=88.0)) is Verdict.WITHIN
    assert rule.step(quality(accuracy=87.0)).ends
    rule.require()
    assert rule.ceiling(quality(accuracy=60.0), quality(accuracy=61.0)) is Verdict.WITHIN
    assert LimitRule(Limit(max_drift=0.1), quality()).step(quality(drift=0.2)) is Verdict.EXCEEDED


def test_a_target_must_be_reached():
    rule = LimitRule(Limit(count=2), quality())
    assert rule.step(quality()) is Verdict.NOT_REACHED
    with pytest.raises(NothingToCollapseError, match="--count 2 is not reached: only 1 block can go"):
        rule.require()
    assert rule.step(quality()) is Verdict.REACHED
    rule.require()


def test_a_speedup_that_is_not_reached_names_the_best():
    rule = LimitRule(Limit(min_speedup=100.0), quality())
    for speedup in (1.05, 1.1, 1.08):
        assert not rule.step(quality(), lambda speedup=speedup: speedup).ends
    with pytest.raises(NothingToCollapseError, match=r"100 is not reached: with 3 blocks gone.* 1\.1 times"):
        rule.require()
    assert rule.step(quality(), lambda: 100.0) is Verdict.REACHED
    rule.require()
    with pytest.raises(UsageError, match="measurement"):
        LimitRule(Limit(min_speedup=2.0), quality()).step(quality())


def test_what_even_the_first_step_breaks_is_named():
    rule = LimitRule(Limit(max_drop=1.0), quality(), thing="activation")
    rule.ceiling(quality(accuracy=86.5))
    assert "even one activation exceeds the limit" in str(rule.nothing())
    assert "the best that was reached is a drop of 3.5 points" in str(rule.nothing())


def test_without_a_limit_nothing_is_taken_back():
    rule = LimitRule(None, quality())
    assert rule.step(quality(accuracy=0.0)) is Verdict.WITHIN
    rule.require()
