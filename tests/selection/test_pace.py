"""The number of threads of a search is found by trying, and tried again when pieces become slow."""

from __future__ import annotations

import pytest
from builders import random_feeds, residual_cnn

from lacoot_deploy.data import Samples
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.selection import pace
from lacoot_deploy.selection.engine import Engine


def engine_with(**options):
    model, found = residual_cnn(2)
    return Engine(model, found, None, Samples(random_feeds(model, batch=20)), batch_size=8, **options)


@pytest.fixture
def slow_machine(monkeypatch):
    """Every piece is worth a trial, and four threads may be used."""
    monkeypatch.setattr(pace, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(pace, "usable_threads", lambda: 4)
    tried = []
    monkeypatch.setattr(pace, "fastest", lambda trials: tried.append(sorted(trials)) or 2)
    return tried


def test_the_fastest_number_of_threads_is_taken(slow_machine):
    engine = engine_with()
    assert slow_machine[0] == [1, 2, 4]
    assert engine.network.pace.threads == 2


def test_the_user_decides(slow_machine):
    assert engine_with(runtime=Runtime("cpu", 3)).network.pace.threads == 3
    assert not slow_machine


def test_small_pieces_run_with_one_thread(monkeypatch):
    monkeypatch.setattr(pace, "LEAST_SECONDS", 1e9)
    assert engine_with().network.pace.threads == 1


def test_it_is_tried_again_when_equal_work_takes_longer(slow_machine, monkeypatch):
    engine = engine_with()
    chooser = engine.network.pace
    before = len(slow_machine)
    chooser._slowest = len(engine.network.pieces) - 1
    chooser._size = chooser._entries(engine.dense.values[0])
    monkeypatch.setattr(chooser._watch, "slow", lambda seconds: True)
    engine.remove(engine.dense, ["layer0"], repair="none")
    assert before < len(slow_machine) <= pace.MOST_TRIALS
