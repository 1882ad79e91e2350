"""Whatever random valid model it is: what is called collapsible is cut, and equals the bypass in raw protobuf."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from builders import cut_by_hand, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from random_graphs import TYPES, WIDTH, Choices, random_model

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut

Choice = tuple[Block, Form]
BY_TYPE = {elem: name for name, (elem, _) in TYPES.items()}


def outputs_of(model: onnx.ModelProto) -> list[np.ndarray]:
    """Outputs on fixed inputs; half precision in ONNX' reference, which rounds after every node as the format says."""
    kind = BY_TYPE[model.graph.input[0].type.tensor_type.elem_type]
    x = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(TYPES[kind][1])
    feeds = {model.graph.input[0].name: x}
    flags = [{}]
    if any(value.name == "flag" for value in model.graph.input):
        flags = [{"flag": np.array(flag)} for flag in (True, False)]
    if kind in ("float32", "float64"):
        return [output for flag in flags for output in run(model, feeds | flag)]
    reference = ReferenceEvaluator(model)
    return [output for flag in flags for output in reference.run(None, feeds | flag)]


def check(model: onnx.ModelProto, choices: Sequence[Choice]) -> None:
    result = collapse_blocks(model, [Cut(block, form) for block, form in choices])
    onnx.checker.check_model(result, full_check=True)
    assert list(result.graph.output) == list(model.graph.output)
    weights = {tensor.name for tensor in model.graph.initializer}
    assert [v for v in result.graph.input if v.name not in weights] == [
        v for v in model.graph.input if v.name not in weights
    ]
    ours, theirs = outputs_of(result), outputs_of(cut_by_hand(model, choices))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.astype(np.float64), b.astype(np.float64))


def examine(model: onnx.ModelProto, chance: random.Random) -> Counter[str]:
    """Cut up to three blocks alone and up to all of them together; gives what was met."""
    onnx.checker.check_model(model, full_check=True)
    blocks = find_blocks(model)
    assert len({block.name for block in blocks}) == len(blocks)
    assert all((block.reason is None) == block.collapsible for block in blocks)
    able = [block for block in blocks if block.collapsible]
    met = Counter(models=1, blocks=len(blocks), collapsible=len(able))
    for block in chance.sample(able, min(3, len(able))):
        check(model, [(block, chance.choice(block.forms))])
        met["cuts"] += 1
    several = chance.sample(able, chance.randint(0, len(able)))
    if len(several) > 1:
        choices = [(block, chance.choice(block.forms)) for block in several]
        try:
            check(model, choices)
            met["cuts of several"] += 1
        except UsageError as error:
            if "share the merge" not in str(error):
                raise
            met["within another"] += 1
    return met


def met_in(seeds: range) -> Counter[str]:
    met: Counter[str] = Counter()
    for seed in seeds:
        try:
            met += examine(random_model(Choices.seeded(seed)), random.Random(seed))
        except Exception as error:
            raise AssertionError(f"random_model(Choices.seeded({seed}))") from error
    return met


@pytest.mark.parametrize("part", range(4))
def test_random_models(part):
    met = met_in(range(50 * part, 50 * part + 50))
    assert met["models"] == 50
    assert met["collapsible"] > 40
    assert met["cuts"] > 40


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_models_that_hypothesis_builds(data):
    model = random_model(Choices(lambda limit: data.draw(st.integers(0, limit - 1))))
    examine(model, data.draw(st.randoms(use_true_random=False)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_thousand_random_models(capsys):
    met = met_in(range(1000, 6000))
    with capsys.disabled():
        print(f"\nrandom models: {dict(met)}")
    assert met["models"] == 5000
    assert met["cuts"] > 5000
