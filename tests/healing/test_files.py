"""A file as a module, and its weights back into the same bytes, however the file keeps them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from builders import GraphBuilder, random_feeds, residual_cnn, residual_mlp, run
from onnx import TensorProto, helper, numpy_helper

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.healing.files import save_weights, torch_module
from lacoot_deploy.healing.flat import flatten
from lacoot_deploy.healing.patch import write_weights
from lacoot_deploy.healing.weights import trainable_weights
from lacoot_deploy.manifest import MANIFEST_KEY, Manifest, read_manifest, to_json, write_manifest


def saved(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def with_floats_in_lists(model):
    """The weights as lists of numbers, the second in `Constant` nodes, as some exporters write them."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, values.shape, values.reshape(-1)))
    moved = model.graph.initializer.pop(1)
    model.graph.node.insert(0, helper.make_node("Constant", [], [moved.name], value=moved))
    return model


def in_a_function(width=4):
    """A network whose second layer is a function with a weight of its own in its body."""
    inner = numpy_helper.from_array(
        np.random.default_rng(1).normal(size=(width, width)).astype(np.float32), "v"
    )
    function = helper.make_function(
        "my.own",
        "Layer",
        ["a", "w"],
        ["b"],
        [
            helper.make_node("Constant", [], ["v"], value=inner),
            helper.make_node("MatMul", ["a", "w"], ["h"]),
            helper.make_node("LeakyRelu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    function.node[2].attribute.append(onnx.AttributeProto(name="alpha", type=1, ref_attr_name="slope"))
    function.attribute.append("slope")
    g = GraphBuilder()
    g.op(
        "Layer",
        g.input("x", ["N", width]),
        g.normal(width, width, name="w"),
        domain="my.own",
        output="y",
        slope=0.3,
    )
    model = g.model({"y": ["N", width]}, infer=False)
    model.functions.append(function)
    return model


CASES = {
    "raw": lambda: residual_cnn(2)[0],
    "lists": lambda: with_floats_in_lists(residual_mlp(2)[0]),
    "half": lambda: residual_mlp(2, dtype=np.float16)[0],
    "half in lists": lambda: with_floats_in_lists(residual_mlp(2, dtype=np.float16)[0]),
    "double": lambda: residual_mlp(2, dtype=np.float64)[0],
    "function": in_a_function,
}


@pytest.mark.parametrize("case", CASES)
def test_the_module_is_the_file_and_its_weights_go_back(case, tmp_path):
    model = CASES[case]()
    source = saved(model, tmp_path / "a.onnx")
    module = torch_module(source)
    feeds = random_feeds(model)
    expected = run(model, feeds)
    found = module(*(torch.from_numpy(v) for v in feeds.values()))
    tolerance = 1e-2 if "half" in case else 1e-5
    np.testing.assert_allclose(found.detach().numpy(), expected[0], rtol=tolerance, atol=tolerance)
    save_weights(module, source, tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == source.read_bytes()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    module(*(torch.from_numpy(v) for v in feeds.values())).square().sum().backward()
    optimizer.step()
    save_weights(module, source, tmp_path / "b.onnx")
    changed = load_model(tmp_path / "b.onnx")
    trained = run(changed, feeds)[0]
    assert np.abs(trained - expected[0]).max() > 1e-4
    now = module(*(torch.from_numpy(v) for v in feeds.values())).detach().numpy()
    np.testing.assert_allclose(now, trained, rtol=tolerance, atol=tolerance)
    if "in lists" not in case:
        assert (tmp_path / "b.onnx").stat().st_size == source.stat().st_size
    names = trainable_weights(flatten(changed))
    assert sorted(module.weights) == sorted(names)


def test_parameters_bear_the_names_of_the_file(tmp_path):
    module = torch_module(saved(residual_cnn(2)[0], tmp_path / "a.onnx"))
    assert "layer1.conv2.weight" in dict(module.named_parameters())
    assert module.get_parameter("layer1.conv2.weight") is module.weights["layer1.conv2.weight"]


@pytest.mark.parametrize("name", ["forward", "weights", ".", "a..b", "type", "values.x", "onnx::Conv_1"])
def test_names_that_no_module_path_can_have_are_changed(name, tmp_path):
    g = GraphBuilder()
    y = g.op("MatMul", g.input("x", [2, 3]), g.normal(3, 3, name=name), output="y")
    module = torch_module(saved(g.model({y: [2, 3]}), tmp_path / "a.onnx"))
    assert list(module.weights) == [name]
    assert module(torch.ones(2, 3)).shape == (2, 3)


def test_shared_weights_stay_shared(tmp_path):
    g = GraphBuilder()
    w = g.normal(4, 4, name="w")
    x = g.op("MatMul", g.op("Relu", g.op("MatMul", g.input("x", ["N", 4]), w)), w)
    y = g.op("MatMul", x, g.op("Transpose", w), output="y")
    module = torch_module(saved(g.model({y: ["N", 4]}), tmp_path / "a.onnx"))
    assert len(list(module.parameters())) == 1


def test_external_data_keeps_its_layout(tmp_path):
    model = residual_cnn(2)[0]
    source = tmp_path / "a.onnx"
    onnx.save(model, source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    module = torch_module(source)
    with torch.no_grad():
        module.weights["layer0.conv1.weight"].mul_(2)
    save_weights(module, source, tmp_path / "b.onnx")
    old, new = (tmp_path / "weights.bin").read_bytes(), (tmp_path / "b.onnx.data").read_bytes()
    assert len(old) == len(new)
    assert 0 < sum(a != b for a, b in zip(old, new, strict=True)) < len(old)
    kept = {
        t.name: numpy_helper.to_array(t, str(tmp_path))
        for t in load_model(tmp_path / "b.onnx").graph.initializer
    }
    for tensor in model.graph.initializer:
        factor = 2 if tensor.name == "layer0.conv1.weight" else 1
        np.testing.assert_array_equal(
            kept[tensor.name], factor * numpy_helper.to_array(tensor, str(tmp_path))
        )


@pytest.mark.parametrize("there", [True, False])
def test_only_the_manifest_and_the_weights_change(there, tmp_path):
    model = residual_mlp(2)[0]
    model.metadata_props.add(key="other", value="kept")
    if there:
        write_manifest(model, Manifest(producer="before"))
    source = saved(model, tmp_path / "a.onnx")
    values = {"layer0.w1": np.ones((8, 8), np.float32)}
    write_weights(source, tmp_path / "b.onnx", values, manifest=to_json(Manifest(producer="after")))
    written = load_model(tmp_path / "b.onnx")
    assert read_manifest(written).producer == "after"
    for one in (model, written):
        kept = [entry for entry in one.metadata_props if entry.key != MANIFEST_KEY]
        del one.metadata_props[:]
        one.metadata_props.extend(kept)
        next(t for t in one.graph.initializer if t.name == "layer0.w1").ClearField("raw_data")
    assert written == model


def test_unfit_weights_are_refused(tmp_path):
    source = saved(residual_mlp(1, dtype=np.float16)[0], tmp_path / "a.onnx")
    for values, message in (
        ({"nothing": np.zeros(1)}, "no weight nothing"),
        ({"layer0.w1": np.zeros((2, 2))}, "has shape"),
        ({"layer0.w1": np.full((8, 8), 1e9)}, "not finite in float16"),
    ):
        with pytest.raises(InputError, match=message):
            write_weights(source, tmp_path / "b.onnx", values)
    assert not (tmp_path / "b.onnx").exists()
    with pytest.raises(InputError, match="input of this very command"):
        write_weights(source, source, {})


def test_quantised_files_are_refused(tmp_path):
    g = GraphBuilder()
    scale, zero = g.weight(0.1), g.weight(0, dtype=np.uint8)
    q = g.op("QuantizeLinear", g.input("x", [2, 3]), scale, zero)
    y = g.op("MatMul", g.op("DequantizeLinear", q, scale, zero), g.normal(3, 3), output="y")
    with pytest.raises(InputError, match="quantised"):
        torch_module(saved(g.model({y: [2, 3]}), tmp_path / "a.onnx"))


def test_if_and_loop_run_around_trained_weights(tmp_path):
    then, other, body = GraphBuilder(), GraphBuilder(), GraphBuilder()
    then.op("Mul", "h", then.weight(2.0), output="t")
    other.op("Identity", "h", output="e")
    body.input("i", [], TensorProto.INT64)
    body.input("c", [], TensorProto.BOOL)
    body.input("state", ["N", 4])
    body.op("Identity", "c", output="c_out")
    body.op("Add", "state", "h", output="s_out")
    loop = body.graph({"c_out": [], "s_out": ["N", 4]})
    loop.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    g = GraphBuilder()
    h = g.op("MatMul", g.input("x", ["N", 4]), g.normal(4, 4, name="w"), output="h")
    positive = g.op("Greater", g.op("ReduceSum", "x", keepdims=0), g.weight(0.0))
    branches = {"then_branch": then.graph({"t": ["N", 4]}), "else_branch": other.graph({"e": ["N", 4]})}
    for branch in branches.values():
        del branch.input[:]
    chosen = g.op("If", positive, **branches)
    y = g.op("Loop", g.weight(3, dtype=np.int64), "", chosen, body=loop, output="y")
    model = g.model({y: ["N", 4]}, infer=False)
    module = torch_module(saved(model, tmp_path / "a.onnx"))
    for sign in (1, -1):
        x = sign * np.abs(np.random.default_rng(0).normal(size=(2, 4))).astype(np.float32)
        found = module(torch.from_numpy(x))
        np.testing.assert_allclose(found.detach().numpy(), run(model, {"x": x})[0], rtol=1e-5, atol=1e-5)
        found.sum().backward()
    assert h == "h"
    assert module.weights["w"].grad is not None


def test_what_depends_on_shapes_alone_is_computed_once_a_shape(tmp_path):
    g = GraphBuilder()
    x = g.op("MatMul", g.input("x", ["N", 4]), g.normal(4, 4))
    shape = g.op("Concat", g.op("Shape", "x", end=1), g.weight([2, 2], dtype=np.int64), axis=0)
    y = g.op("Reshape", x, shape, output="y")
    model = g.model({y: ["N", 2, 2]}, infer=False)
    module = torch_module(saved(model, tmp_path / "a.onnx"))
    for count in (3, 2, 3, 3):
        assert module(torch.ones(count, 4)).shape == (count, 2, 2)
    assert len(module._kept) == 2
