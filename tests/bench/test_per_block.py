from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_models import chain, make_model

from lacoot_deploy.bench import bench
from lacoot_deploy.bench.cutting import name_nodes, node_owners, prefix, read_profile
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.bench.per_block import BlockLatencies, BlockLatency, block_latencies, realised
from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.runtime.options import Runtime


def block(name: str, source: str, target: str, nodes: tuple[str, ...]) -> Block:
    return Block(name, source, target, (), (Form.BYPASS,), None, None, "float32", nodes, 0, None)


def uneven_chain() -> tuple[onnx.ModelProto, list[Block]]:
    """Three small blocks and one, `big`, of eight convolutions."""
    model = chain(11, channels=16, side=24)
    parts = [("first", 0, 1), ("second", 1, 2), ("big", 2, 10), ("last", 10, 11)]
    blocks = [
        block(
            name, f"h{a}", f"h{b}", tuple(f"{op}{i}" for i in range(a, b) for op in ("relu", "conv", "add"))
        )
        for name, a, b in parts
    ]
    return model, blocks


@pytest.mark.parametrize("method", ["profile", "prefix"])
def test_time_goes_to_the_block_that_takes_it(method):
    model, blocks = uneven_chain()
    found = block_latencies(
        model, blocks, method=method, options=BenchOptions(min_time=1.0), runtime=Runtime("cpu", threads=1)
    )
    ms = {b.name: b.ms for b in found.blocks}
    assert list(ms) == ["first", "second", "big", "last"]
    assert found.method == method
    assert ms["big"] > 2 * max(ms["first"], ms["second"], ms["last"])
    assert sum(ms.values()) + found.rest_ms >= 0.99 * found.total_ms
    assert sum(b.share for b in found.blocks) == pytest.approx(sum(ms.values()) / found.total_ms)


def test_blocks_are_timed_on_bound_values_as_on_a_gpu():
    model, blocks = uneven_chain()
    found = block_latencies(
        model,
        blocks,
        method="prefix",
        options=BenchOptions(min_time=0.5, io_binding=True),
        runtime=Runtime("cpu", threads=1),
    )
    ms = {b.name: b.ms for b in found.blocks}
    assert ms["big"] > 2 * max(ms["first"], ms["second"], ms["last"])


def test_what_was_saved_is_held_to_what_was_promised():
    found = BlockLatencies(
        total_ms=10.0,
        method="profile",
        blocks=[BlockLatency(name="a", ms=3.0, share=0.3), BlockLatency(name="b", ms=2.0, share=0.2)],
        rest_ms=5.0,
        batch=1,
        provider="cpu",
    )
    assert found.expected_saving(["a", "b"]) == 5.0
    result = bench(
        chain(2), chain(1), options=BenchOptions(min_time=0.2, rounds=1, memory=False), runtime=Runtime("cpu")
    )
    all_of_it = realised(found, ["a", "b"], result.model_copy(update={"speedup": 2.0}))
    assert (all_of_it.expected_speedup, all_of_it.share) == (2.0, 1.0)
    half = realised(found, ["a", "b"], result.model_copy(update={"speedup": 1 / 0.75}))
    assert half.share == pytest.approx(0.5)
    with pytest.raises(UsageError, match="'c' was not measured; known are a, b"):
        found.expected_saving(["c"])
    with pytest.raises(UsageError, match="two models"):
        realised(found, ["a"], result.model_copy(update={"speedup": None}))


def test_a_profile_is_credited_by_node_and_value_names(tmp_path):
    model = name_nodes(chain(2))
    owners = node_owners(chain(2), {"b0": ["relu0", "conv0", "add0"], "b1": ["relu1", "conv1", "add1"]})
    assert owners == {0: "b0", 1: "b0", 2: "b0", 3: "b1", 4: "b1", 5: "b1"}

    def run(at: int, scale: int):
        nodes = [
            ("lacoot0.", 5),  # a node under its own name
            ("ReorderInput", 2),  # before the convolution of the same block
            ("c0_nchwc", 10),  # fused, called after the value that comes out
            ("ReorderOutput_token_7", 3),  # after it
            ("h2_fused", 20),  # the whole second block, fused
            ("Unknown_3", 4),  # goes to what ran last
        ]
        events, now = [], at
        for name, duration in nodes:
            events.append(
                {"cat": "Node", "name": f"{name}_kernel_time", "ts": now, "dur": duration * scale, "args": {}}
            )
            now += duration * scale
        return [*events, {"cat": "Session", "name": "model_run", "ts": at, "dur": now - at, "args": {}}]

    events = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 1, "args": {}}]
    for number, scale in enumerate([100, 1, 1, 7]):  # the first is warm-up, the last was interrupted
        events += run(10_000 * (number + 1), scale)
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    found = read_profile(path, model, owners, runs=3)
    assert found == pytest.approx({"b0": 20e-6, "b1": 24e-6})


def test_a_prefix_computes_the_same_value_and_nothing_else():
    model = chain(4)
    cut = prefix(model, ["h2"])
    assert len(cut.graph.node) == 6
    assert [w.name for w in cut.graph.initializer] == ["w0", "w1"]
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.append(helper.make_tensor_value_info("h2", TensorProto.FLOAT, None))
    run = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["h2"], {"h0": x}
        )[0]
        for m in (cut, whole)
    ]
    np.testing.assert_allclose(run[0], run[1], rtol=1e-5, atol=1e-6)


def test_a_prefix_keeps_what_bodies_read_from_outside():
    inner = helper.make_graph(
        [helper.make_node("Add", ["shifted", "x"], ["sum"])],
        "then",
        [],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"])],
        "else",
        [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
    )
    model = make_model(
        [
            helper.make_node("Relu", ["x"], ["shifted"], name="outside"),
            helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=other, name="if"),
            helper.make_node("Neg", ["chosen"], ["y"], name="after"),
        ],
        {"x": (TensorProto.FLOAT, [2])},
        {"y": (TensorProto.FLOAT, [2])},
        {"yes": np.array(True)},
    )
    assert [node.name for node in prefix(model, ["chosen"]).graph.node] == ["outside", "if"]
