from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from tiny_models import chain, make_model

from lacoot_deploy.data import Samples
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.graph.model.blocks import Block, Form, ResidualUnit
from lacoot_deploy.runtime import measure as measuring
from lacoot_deploy.runtime.measure import measure, measure_blocks
from lacoot_deploy.runtime.options import DistanceOptions, Runtime
from lacoot_deploy.transport import cosine_distance, max_sliced_wasserstein, paired_distance


def block(i: int) -> Block:
    unit = ResidualUnit(
        f"u{i}", f"h{i}", f"h{i}", f"c{i}", f"h{i + 1}", "Add", trailing=(), output=f"h{i + 1}"
    )
    shape = ("n", 8, 8, 8)
    return Block(
        f"b{i}", f"h{i}", f"h{i + 1}", (unit,), (Form.BYPASS,), shape, shape, "float32", (f"add{i}",), 1, 1
    )


def reference(model, samples):
    """The blocks' values by PyTorch: h + conv(relu(h)) again and again."""
    from onnx import numpy_helper

    h = torch.from_numpy(samples.feeds["h0"])
    values = [h]
    for weight in model.graph.initializer:
        h = h + torch.conv2d(h.relu(), torch.from_numpy(numpy_helper.to_array(weight).copy()), padding=1)
        values.append(h)
    return values


@pytest.fixture
def setting():
    model = chain(3)
    x = np.random.default_rng(7).standard_normal((37, 8, 8, 8)).astype(np.float32)
    return model, [block(i) for i in range(3)], Samples({"h0": x})


def test_distances_are_those_of_the_transport_room_on_the_true_activations(setting):
    model, blocks, samples = setting
    measured = measure(
        model, blocks, samples, runtime=Runtime("cpu"), options=DistanceOptions(split="val", seed=3)
    )
    values = reference(model, samples)
    directions = measuring._directions(512, 50, 3)
    for i, b in enumerate(blocks):
        x, y = values[i], values[i + 1]
        d = measured[b.name].distances
        assert d["paired"].value == pytest.approx(float(paired_distance(x, y)), rel=1e-4)
        assert d["cosine"].value == pytest.approx(float(cosine_distance(x, y)), rel=1e-3)
        assert d["mswd"].value == pytest.approx(
            float(max_sliced_wasserstein(x, y, directions=directions)), rel=1e-4
        )
        assert d["mswd-ascent"].value >= d["mswd"].value * (1 - 1e-5)
        assert d["mswd"].floor > 0
        assert (d["mswd"].samples, d["mswd"].projections, d["mswd"].seed, d["mswd"].split) == (
            37,
            50,
            3,
            "val",
        )
        assert measured[b.name].target.mean == pytest.approx(float(y.mean()), abs=1e-5)
        assert measured[b.name].target.std == pytest.approx(float(y.std(unbiased=False)), rel=1e-4)


def test_the_batch_size_and_the_memory_limit_do_not_change_the_result(setting, monkeypatch):
    model, blocks, samples = setting
    monkeypatch.setattr(measuring, "ASCENT_SAMPLES", 16)
    want = measure_blocks(
        model, blocks, samples, runtime=Runtime("cpu"), options=DistanceOptions(batch_size=37)
    )
    for options in ({"batch_size": 1}, {"batch_size": 10}, {"memory_bytes": 4 * 16 * 1024}):
        got = measure_blocks(
            model, blocks, samples, runtime=Runtime("cpu"), options=DistanceOptions(**options)
        )
        for name in want:
            assert got[name].keys() == want[name].keys()
            for key, record in want[name].items():
                assert got[name][key].value == pytest.approx(record.value, rel=1e-4), (options, name, key)
                if record.floor is not None:
                    assert got[name][key].floor == pytest.approx(record.floor, rel=1e-3)


def test_too_little_memory_takes_fewer_samples_for_the_ascent_and_says_how_many(setting):
    model, blocks, samples = setting
    got = measure_blocks(
        model, blocks, samples, runtime=Runtime("cpu"), options=DistanceOptions(memory_bytes=4 * 10 * 1024)
    )
    assert {record["mswd-ascent"].samples for record in got.values()} == {10}
    assert {record["mswd"].samples for record in got.values()} == {37}


def test_a_shortcut_block_is_measured_from_skip_to_merge(setting):
    model, blocks, samples = setting
    # As if the first block's input had another shape: the block then starts at a value that cannot be compared.
    only_shortcut = replace(blocks[1], input="r0", forms=(Form.SHORTCUT,), shape=("n", 4, 8, 8))
    got = measure_blocks(
        model, [only_shortcut], samples, runtime=Runtime("cpu"), options=DistanceOptions(ascent=False)
    )["b1"]
    values = reference(model, samples)
    assert got["paired"].value == pytest.approx(float(paired_distance(values[1], values[2])), rel=1e-4)
    assert "mswd-ascent" not in got


def test_blocks_inside_subgraphs_are_left_out(setting):
    model, blocks, samples = setting
    assert measure_blocks(model, [replace(blocks[0], scope=("if", "then_branch"))], samples) == {}


def test_progress_ends_at_the_total(setting):
    model, blocks, samples = setting
    seen: list[tuple[int, int]] = []
    measure(
        model,
        blocks,
        samples,
        runtime=Runtime("cpu"),
        options=DistanceOptions(batch_size=8),
        progress=lambda d, t: seen.append((d, t)),
    )
    assert seen[-1] == (74, 74)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_one_sample_and_activations_that_are_not_finite_are_refused(setting):
    model, blocks, samples = setting
    with pytest.raises(UsageError, match="at least two samples"):
        measure_blocks(model, blocks, samples.take(slice(0, 1)), runtime=Runtime("cpu"))
    samples.feeds["h0"][5, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="h0"):
        measure_blocks(model, blocks, samples, runtime=Runtime("cpu"))


def test_several_inputs_free_dimensions_and_float16():
    """ids and mask in; h = embedding, h1 = h + 0.1 tanh(h) in float16; every sample has its own mask."""
    table = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float16)
    model = make_model(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["e"], name="embed"),
            helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT16, name="cast"),
            helper.make_node("Unsqueeze", ["m", "last"], ["m3"], name="widen"),
            helper.make_node("Mul", ["e", "m3"], ["h"], name="masked"),
            helper.make_node("Tanh", ["h"], ["t"], name="tanh"),
            helper.make_node("Mul", ["t", "tenth"], ["b"], name="scale"),
            helper.make_node("Add", ["h", "b"], ["h1"], name="merge"),
        ],
        {
            "input_ids": (TensorProto.INT64, ["n", "length"]),
            "mask": (TensorProto.INT64, ["n", "length"]),
        },
        {"h1": (TensorProto.FLOAT16, ["n", "length", 4])},
        {"table": table, "last": np.array([2]), "tenth": np.array(0.1, np.float16)},
    )
    unit = ResidualUnit("layer", "h", "h", "b", "h1", "Add", trailing=(), output="h1")
    shape = ("n", "length", 4)
    layer = Block(
        "layer", "h", "h1", (unit,), (Form.BYPASS,), shape, shape, "float16", ("tanh", "scale", "merge"), 0, 0
    )
    ids = np.random.default_rng(1).integers(0, 7, (40, 5))
    mask = (np.arange(5) < np.random.default_rng(2).integers(1, 6, (40, 1))).astype(np.int64)
    found = measure(
        model,
        [layer],
        Samples({"input_ids": ids, "mask": mask}),
        runtime=Runtime("cpu"),
        options=DistanceOptions(batch_size=7),
    )["layer"]
    h = torch.from_numpy(table[ids].astype(np.float32) * mask[..., None].astype(np.float32))
    assert found.distances["paired"].value == pytest.approx(
        float(paired_distance(h, h + 0.1 * h.tanh())), rel=5e-3
    )
    assert found.source.zeros == pytest.approx(float((h == 0).float().mean()))
