"""The number of threads is chosen by what has run already, also in the middle of a network."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.selection.pace import Pace


def test_a_piece_whose_inputs_are_not_there_yet_is_not_tried():
    pieces = [
        SimpleNamespace(provider="cuda", segment=SimpleNamespace(inputs=["x"])),
        SimpleNamespace(provider="cuda", segment=SimpleNamespace(inputs=["later"])),
    ]
    pace = Pace(pieces, SimpleNamespace(), SimpleNamespace(runtime=Runtime("cpu")))
    pace._seconds = [0.1, 9.0]
    pace.choose({"x": np.ones(3)})
    assert pace._slowest == 0
