"""Models that mean nothing are refused when they are read: within a moment, in a sentence that names the place."""

from __future__ import annotations

import os
import time

import onnx
import pytest
from builders import GraphBuilder, residual_mlp
from lacoot_deploy_cli.main import run
from onnx import TensorProto, helper

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.runtime import probe_apart
from lacoot_deploy.workflow.inspecting import inspect, open_model

BUILDERS = {}


def hostile(said: str):
    def note(build):
        BUILDERS[build.__name__] = (build, said)
        return build

    return note


def edited(edit) -> onnx.ModelProto:
    model = residual_mlp(2, width=4)[0]
    edit(model)
    return model


def with_functions(bodies: dict[str, list[onnx.NodeProto]]) -> onnx.ModelProto:
    g = GraphBuilder(opset=18)
    x = g.input("x", ["N", 4])
    g.op("Add", g.op("F0", g.op("MatMul", x, g.normal(4, 4)), domain="local"), x, output="y")
    model = g.model({"y": ["N", 4]}, infer=False)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    for name, nodes in bodies.items():
        model.functions.append(helper.make_function("local", name, ["t"], ["u"], nodes, opsets))
    return model


def call(name: str, source: str, target: str) -> onnx.NodeProto:
    return helper.make_node(name, [source], [target], domain="local")


@hostile("calls itself")
def a_function_that_calls_itself():
    return with_functions({"F0": [call("F0", "t", "u")]})


@hostile("calls itself")
def functions_that_call_one_another():
    return with_functions(
        {"F0": [call("F1", "t", "u")], "F1": [call("F2", "t", "u")], "F2": [call("F0", "t", "u")]}
    )


@hostile("calls itself")
def a_function_that_calls_itself_in_a_branch():
    body = helper.make_graph([call("F0", "t", "v")], "b", [], [helper.make_tensor_value_info("v", 1, None)])
    return with_functions({"F0": [helper.make_node("If", ["t"], ["u"], then_branch=body, else_branch=body)]})


@hostile("more than 1,000,000 nodes")
def functions_that_double_thirty_times():
    bodies = {f"F{i}": [call(f"F{i + 1}", "t", "s"), call(f"F{i + 1}", "s", "u")] for i in range(30)}
    return with_functions(bodies | {"F30": [helper.make_node("Relu", ["t"], ["u"])]})


@hostile("calls itself")
def a_long_chain_of_functions_with_a_loop_at_its_end():
    return with_functions({f"F{i}": [call(f"F{min(i + 1, 2999)}", "t", "u")] for i in range(3000)})


@hostile("reads 'nowhere', which is no input, no weight and computed by no node")
def a_value_that_nothing_computes():
    return edited(lambda m: m.graph.node[1].input.__setitem__(0, "nowhere"))


@hostile("no weight and computed by no node")
def a_weight_that_is_missing():
    return edited(lambda m: m.graph.initializer.pop())


@hostile("its output 'nothing' is no input")
def an_output_that_nothing_computes():
    return edited(lambda m: m.graph.output.add(name="nothing"))


@hostile("two weights are called")
def a_weight_twice():
    return edited(lambda m: m.graph.initializer.append(m.graph.initializer[0]))


@hostile("two inputs are called 'x'")
def an_input_twice():
    return edited(lambda m: m.graph.input.append(m.graph.input[0]))


@hostile("is computed by two nodes")
def a_value_twice():
    return edited(lambda m: m.graph.node.append(m.graph.node[1]))


@hostile("is an input or a weight and is computed by a node as well")
def an_input_that_is_computed():
    return edited(lambda m: m.graph.node.add(op_type="Relu", input=["stem"], output=["x"]))


@hostile("read one another in a circle")
def nodes_in_a_circle():
    return edited(lambda m: m.graph.node[0].input.__setitem__(0, m.graph.node[-1].output[0]))


@hostile("negative size")
def a_weight_of_negative_size():
    return edited(lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), [-4, 4]))


@hostile("larger than anything can be")
def a_weight_of_huge_size():
    return edited(lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), [2**62, 2**62]))


@hostile("holds less than the 4000000000000 bytes")
def a_weight_that_is_far_larger_than_its_bytes():
    return edited(lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), [10**6, 10**6]))


@hostile("declared with a size of -4")
def an_input_of_negative_size():
    return edited(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -4))


@hostile("declared larger than anything can be")
def an_input_of_huge_size():
    def enlarge(model):
        for dim in model.graph.input[0].type.tensor_type.shape.dim:
            dim.dim_value = 2**62

    return edited(enlarge)


@hostile("reads 'hidden', which is no input")
def a_value_of_a_branch_read_outside():
    g = GraphBuilder(opset=18)
    x, flag = g.input("x", ["N", 4]), g.input("flag", [], TensorProto.BOOL)
    inner = GraphBuilder()
    inner.op("Relu", inner.op("Relu", x, output="hidden"), output="shown")
    body = inner.graph({"shown": ["N", 4]})
    g.op("Add", g.op("If", flag, then_branch=body, else_branch=body), "hidden", output="y")
    return g.model({"y": ["N", 4]}, infer=False)


@hostile("reads 'nowhere'")
def a_value_that_nothing_computes_in_a_branch():
    g = GraphBuilder(opset=18)
    x, flag = g.input("x", ["N", 4]), g.input("flag", [], TensorProto.BOOL)
    inner = GraphBuilder()
    inner.op("Add", x, "nowhere", output="shown")
    body = inner.graph({"shown": ["N", 4]})
    g.op("If", flag, then_branch=body, else_branch=body, output="y")
    return g.model({"y": ["N", 4]}, infer=False)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_that_means_nothing(name, tmp_path, capsys):
    build, said = BUILDERS[name]
    path = tmp_path / "hostile.onnx"
    path.write_bytes(build().SerializeToString())
    for command in (
        ["inspect", str(path)],
        ["collapse", str(path), "--count", "1", "--criterion", "random"],
        ["measure", str(path), "--data", "digits", "-o", str(tmp_path / "o.onnx")],
    ):
        began = time.perf_counter()
        assert run(command) == 3
        assert time.perf_counter() - began < 5
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert said in captured.err
    assert os.listdir(tmp_path) == ["hostile.onnx"]


def test_a_protobuf_nested_without_end(tmp_path):
    data = b""
    for _ in range(3000):
        length = len(data)
        data = b"\x3a" + bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14]) + data
    (tmp_path / "deep.onnx").write_bytes(b"\x08\x08" + data)
    with pytest.raises(InputError, match=r"not an ONNX model|names no operator set"):
        load_model(tmp_path / "deep.onnx")


@pytest.mark.parametrize("size", [-1, 0, 1, 2**40])
def test_sizes_that_exporters_write_are_let_through(tmp_path, size):
    model = edited(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", size))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert load_model(tmp_path / "m.onnx") == model


def unsettled(*, rounds: int | None = None, elements: int = 2) -> onnx.ModelProto:
    """A model whose shapes only a run settles, and which runs for as long and takes as much as it says."""
    g = GraphBuilder(opset=18)
    x = g.input("x", ["N", 4])
    value = g.op("MatMul", x, g.normal(4, 4))
    if rounds is not None:
        body = GraphBuilder(opset=18)
        (
            body.input("i", [], TensorProto.INT64),
            body.input("go", [], TensorProto.BOOL),
            body.input("v", ["N", 4]),
        )
        body.op("Identity", "go", output="going"), body.op("Tanh", "v", output="w")
        results = [helper.make_tensor_value_info("going", TensorProto.BOOL, []),
                   helper.make_tensor_value_info("w", TensorProto.FLOAT, ["N", 4])]  # fmt: skip
        loop = helper.make_graph(body.nodes, "b", body.inputs, results)
        value = g.op("Loop", g.weight(rounds, dtype="int64"), "", value, body=loop)
    filled = g.op("ConstantOfShape", g.weight([elements], dtype="int64"))
    value = g.op("Add", value, g.op("ReduceSum", filled, keepdims=0))
    zero, one, two = (g.weight([n], dtype="int64") for n in (0, 1, 2))
    count = g.op("Slice", g.op("Shape", g.op("NonZero", value)), one, two)
    g.op("Relu", g.op("Add", g.op("Slice", value, zero, count, zero), x), output="y")
    return g.model({"y": None}, infer=False)


class TestProbe:
    def test_a_model_that_runs(self, tmp_path):
        path = tmp_path / "m.onnx"
        path.write_bytes(unsettled(rounds=3).SerializeToString())
        opened = open_model(path)
        assert opened.notes
        assert "settled by a probe run" in opened.notes[0]
        assert any(block.collapsible for block in opened.blocks)

    def test_one_that_runs_without_end(self, tmp_path, monkeypatch):
        path = tmp_path / "m.onnx"
        path.write_bytes(unsettled(rounds=2**62).SerializeToString())
        monkeypatch.setattr(probe_apart.probe_file, "__kwdefaults__", {"seconds": 4.0})
        began = time.perf_counter()
        found = inspect(path)
        assert time.perf_counter() - began < 10
        assert "more than 4 seconds" in found.notes[0]
        assert not any(block.collapsible for block in found.blocks)

    @pytest.mark.skipif(os.name != "posix", reason="memory is bounded as on POSIX")
    def test_one_that_takes_all_memory(self, tmp_path):
        path = tmp_path / "m.onnx"
        elements = int(1.1 * probe_apart.memory_bound() + 2**31) // 4
        path.write_bytes(unsettled(elements=elements).SerializeToString())
        found = inspect(path)
        assert "the probe run failed" in found.notes[0]
        assert not any(block.collapsible for block in found.blocks)

    def test_a_process_that_dies(self, tmp_path, monkeypatch):
        path = tmp_path / "m.onnx"
        path.write_bytes(unsettled().SerializeToString())
        monkeypatch.setattr(probe_apart, "__name__", "no_such_module")
        assert "ended with code 1: " in inspect(path).notes[0]
