"""Whatever ONNX Runtime runs is searched, and the pieces give what the collapsed file gives."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import onnx
import pytest
from oddities import odd_model
from random_graphs import TYPES, WIDTH, Choices, random_model

from lacoot_deploy.data import Samples
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.runtime.evaluate import predict
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.selection.engine import Engine

BY_TYPE = {elem: name for name, (elem, _) in TYPES.items()}
LOOSE = {"float16": 3e-2, "float32": 2e-4, "float64": 2e-4}


def samples_of(model: onnx.ModelProto, count: int) -> Samples:
    """Samples of a random model: its one input, and the flag that is the same for all."""
    value = model.graph.input[0]
    dtype = TYPES[BY_TYPE[value.type.tensor_type.elem_type]][1]
    feeds = {value.name: np.random.default_rng(0).normal(size=(count, WIDTH)).astype(dtype)}
    if any(value.name == "flag" for value in model.graph.input):
        feeds["flag"] = np.array(True)
    return Samples(feeds, shared=frozenset({"flag"} & feeds.keys()))


def examine(model: onnx.ModelProto, seed: int) -> Counter[str]:
    """Search a little in one model and hold what the engine says to what the collapsed file gives."""
    kind = BY_TYPE[model.graph.input[0].type.tensor_type.elem_type]
    blocks = [block for block in find_blocks(model) if block.collapsible and not block.scope]
    if kind == "bfloat16" or not blocks:  # no processor kernels
        return Counter()
    samples = samples_of(model, 13)
    try:
        dense = predict(open_session(model), samples)
    except InputError:  # what was made odd may be too odd
        return Counter(refused=1)
    assert all(np.isfinite(value).all() for value in dense.values())
    engine = Engine(model, blocks, samples, samples, batch_size=5)
    chance = random.Random(seed)
    met = Counter(models=1)
    variant = engine.dense
    for repair in ("none", "linear", "affine"):
        left = [name for name in engine.blocks if name not in engine.gone(variant)]
        if not left:
            break
        variant = engine.remove(variant, [chance.choice(left)], repair=repair)
        collapsed = collapse_blocks(model, engine.cuts(variant))
        try:
            expected = predict(open_session(collapsed), samples, list(engine.judged))
        except InputError as error:
            if kind == "float64" and "Unexpected data type for Clip" in str(error):
                break  # ONNX Runtime's own fusion of a Relu and a Clip knows no double precision
            raise
        for name, value in engine.gather(variant).items():
            scale = max(float(np.abs(expected[name].astype(np.float64)).max()), 1e-3)
            assert (
                np.abs(value.astype(np.float64) - expected[name].astype(np.float64)).max()
                <= LOOSE[kind] * scale
            )
        met[repair] += 1
    if engine.fit_batches and variant.removed:
        engine.quality(engine.refit(variant))
    return met


def met_in(seeds: range) -> Counter[str]:
    met: Counter[str] = Counter()
    for seed in seeds:
        model = random_model(Choices.seeded(seed))
        odd, names = odd_model(model, seed)
        for one, what in ((model, "as it is"), (odd, names)):
            try:
                met += examine(one, seed)
            except Exception as error:
                raise AssertionError(f"random_model(Choices.seeded({seed})), {what}") from error
    return met


def test_random_models_and_what_is_odd_about_them_are_searched():
    met = met_in(range(30))
    assert met["models"] >= 25
    assert met["linear"] >= 8
    assert met["refused"] <= 8


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_random_models_are_searched(capsys):
    met = met_in(range(1000, 2000))
    with capsys.disabled():
        print(f"\nsearched: {dict(met)}")
    assert met["models"] >= 1000
    assert met["refused"] <= met["models"] // 10
