"""Graphs that no specification allows: refused in a sentence or looked through, and never a traceback."""

import contextlib
import random
import time

import onnx
import pytest
from builders import GraphBuilder, residual_cnn, residual_mlp
from onnx import TensorProto, helper, numpy_helper

from lacoot_deploy.errors import InputError, LacootError
from lacoot_deploy.graph.discovery import costs, find_blocks, ranges, survey
from lacoot_deploy.graph.discovery.assemble import survey_of
from lacoot_deploy.graph.model import ops
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.model.index import index_model
from lacoot_deploy.graph.model.tolerant import invalid_is_refused
from lacoot_deploy.graph.shapes import rules as shape_rules
from lacoot_deploy.graph.shapes import values as shape_values
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut

OPERATORS = sorted(
    {*shape_rules.RULES, *shape_values._RULES, *ranges._RULES, *costs._RULES}
    | {*ops.SKIP_NORMS, "QLinearAdd", "NhwcFusedConv", "Constant", "If", "Loop", "Scan", "CastLike"}
)
NONSENSE = ("", b"\xff", 0, -1, 2**62, -(2**63), 0.5, [], [0], [-9, 9], [2**62] * 3, [0.5])
ATTRIBUTES = (
    "axis", "axes", "pads", "strides", "dilations", "kernel_shape", "perm", "to", "value", "split", "scales",
    "starts", "ends", "equation", "blocksize", "activation", "auto_pad", "N", "K", "group", "start", "end",
    "num_scan_inputs", "count_include_pad", "mode",
)  # fmt: skip


def chain_around(kind: str, count: int, domain: str, random: random.Random, results: int) -> onnx.ModelProto:
    """A residual unit whose branch, skip and tail all hold the operator, with arbitrary operands and attributes."""
    g = GraphBuilder(opset=18)
    x = g.input("x", ["N", 4, 8, 8])
    size = g.op("Shape", x)
    operands = [x, size, g.normal(4, 4, 3, 3), g.weight([2], dtype="int64"), g.op("Gather", size, size), ""]

    def made(source: str) -> str:
        inputs = [source, *(random.choice(operands) for _ in range(count - 1))][:count]
        outputs = [g.fresh("made") for _ in range(results)]
        node = helper.make_node(kind, inputs, outputs, domain=domain)
        for name in random.sample(ATTRIBUTES, 6):
            value = random.choice(NONSENSE)
            kinds = {"attr_type": onnx.AttributeProto.INTS} if value == [] else {}
            node.attribute.append(helper.make_attribute(name, value, **kinds))
        g.nodes.append(node)
        g.domains.add(domain)
        operands.extend(outputs)
        return outputs[0] if outputs else source

    branch = g.op("Conv", made(x), "w")
    g.op("Relu", made(g.op("Add", branch, made(x))), output="y")
    g.op("Reshape", "y", made(size), output="z")
    return g.model({"z": None}, infer=False)


@pytest.mark.parametrize("kind", OPERATORS)
def test_operators_that_are_not_as_specified(kind):
    random.seed(kind)
    for turn in range(5):
        domain = "com.microsoft" if turn % 4 == 3 else ""
        model = chain_around(kind, turn % 6, domain, random, (1, 1, 2, 0)[turn % 4])
        # Without what turns failures on invalid models into a sentence: the rules themselves have to bear it.
        found = survey_of(index_model(model))
        assert all(block.forms for block in found.blocks if block.collapsible)


def tensors() -> list[TensorProto]:
    """Weights whose bytes, type and shape do not belong together."""
    short = numpy_helper.from_array(helper.np.ones((4, 4), helper.np.float32))
    short.raw_data = short.raw_data[:7]
    negative = TensorProto(data_type=TensorProto.INT64, dims=[-1], raw_data=b"\0" * 8)
    untyped = TensorProto(data_type=0, dims=[2], raw_data=b"\0" * 8)
    foreign = TensorProto(data_type=99, dims=[2], raw_data=b"\0" * 8)
    huge = TensorProto(data_type=TensorProto.FLOAT, dims=[2**40, 2**40])
    text = TensorProto(data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff"])
    return [short, negative, untyped, foreign, huge, text]


@pytest.mark.parametrize("tensor", tensors(), ids=["short", "negative", "untyped", "foreign", "huge", "text"])
@pytest.mark.parametrize("node", [False, True], ids=["initializer", "Constant"])
def test_constants_that_cannot_be_read(tensor, node):
    g = GraphBuilder()
    x = g.input("x", ["N", 4])
    if node:
        weight = g.op("Constant", value=tensor)
    else:
        weight = "bad"
        g.weights.append(TensorProto(name="bad"))
        g.weights[-1].MergeFrom(tensor)
        g.weights[-1].name = "bad"
    kept = g.op("Reshape", g.op("Clip", g.op("MatMul", x, weight), weight), weight)
    g.op("Add", x, g.op("Tile", kept, weight), output="y")
    for block in find_blocks(g.model({"y": None}, infer=False)):
        assert isinstance(block.collapsible, bool)


def test_one_value_computed_twice():
    g = GraphBuilder()
    x = g.input("x", [4])
    g.op("Relu", x, output="y")
    g.op("Tanh", x, output="y")
    with pytest.raises(InputError, match="y is computed by two nodes"):
        find_blocks(g.model({"y": [4]}, infer=False))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_nodes_in_a_circle(length):
    g = GraphBuilder()
    x = g.input("x", [4])
    names = [f"v{number}" for number in range(length)]
    for before, after in zip((names[-1], *names), names, strict=False):
        g.op("Identity", before, output=after)
    g.op("Add", x, g.op("MatMul", names[0], g.normal(4, 4)), output="y")
    model = g.model({"y": [4]}, infer=False)
    for look in (find_blocks, survey):
        with pytest.raises(InputError, match="to compute v0, its nodes read one another in a circle"):
            look(model)


def test_a_sum_of_one_value_and_another_twice():
    g = GraphBuilder()
    x = g.input("x", ["N", 4])
    a, b = g.op("MatMul", x, g.normal(4, 4)), g.op("MatMul", x, g.normal(4, 4))
    g.op("Sum", a, a, b, output="y")
    (block,) = find_blocks(g.model({"y": ["N", 4]}))
    assert block.reason is not None
    assert block.reason.code == "no_skip"


@pytest.mark.parametrize("kind", ["Mul", "Add", "Pow"])
def test_shape_arithmetic_that_grows_without_bound(kind):
    g = GraphBuilder()
    x = g.input("x", ["N", 4])
    size = g.op("Shape", x)
    grown, number = g.op("Mul", size, g.weight([3, 5], dtype="int64")), g.weight([7, 9], dtype="int64")
    for _ in range(300):
        grown = g.op(kind, grown, g.op("Add", grown, size))
        number = g.op(kind, number, number)
    g.op("Add", g.op("MatMul", x, g.normal(4, 4)), g.op("Reshape", x, grown), output="a")
    g.op("Expand", "a", number, output="y")
    began = time.perf_counter()
    find_blocks(g.model({"y": None}, infer=False))
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("name", ["²", "9" * 5000, "(" * 3000, "a*" * 900, "((x+1)+²)"])
def test_dimensions_with_odd_names(name):
    g = GraphBuilder()
    x = g.input("x", [name, 4])
    w = g.normal(4, 4)
    g.op("Add", g.op("Reshape", g.op("MatMul", x, w), g.op("Shape", x)), x, output="y")
    (block,) = find_blocks(g.model({"y": [name, 4]}, infer=False))
    assert block.forms[0] is Form.BYPASS


def test_module_scopes_nested_without_end():
    model, _ = residual_mlp(1)
    for node in model.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="[" * 100_000)
    assert len([block for block in find_blocks(model) if block.collapsible]) == 1


@pytest.mark.parametrize("seed", range(4))
def test_damaged_graphs(seed):
    """Nodes taken out, doubled and turned into others, operands mixed up: an error is one of ours."""
    random.seed(seed)
    looked = 0
    for turn in range(20):
        model, given = (residual_cnn if turn % 2 else residual_mlp)(3)
        for _ in range(random.randint(1, 3)):
            damage(model.graph)
        try:
            found = find_blocks(model)
        except LacootError:
            continue
        looked += 1
        for block in (*found, *given):
            for form in block.forms:
                with contextlib.suppress(LacootError):
                    collapse_blocks(model, [Cut(block, form)])
    assert looked > 5


def damage(graph: onnx.GraphProto) -> None:
    names = [name for node in graph.node for name in node.output] + [t.name for t in graph.initializer]
    names += ["", *(value.name for value in graph.input)]
    node, kind = random.choice(graph.node), random.randrange(9)
    if kind == 0 and len(graph.node) > 1:
        graph.node.remove(node)
    elif kind == 1 and node.input:
        node.input[random.randrange(len(node.input))] = random.choice(names)
    elif kind == 2 and node.output:
        node.output[random.randrange(len(node.output))] = random.choice([*names, "new"])
    elif kind == 3:
        node.op_type = random.choice(["Relu", "Add", "Foo", "Split", "Reshape", "Concat", "If"])
    elif kind == 4:
        node.input.append(random.choice(names))
    elif kind == 5:
        graph.output.add(name=random.choice(names))
    elif kind == 6:
        del node.input[random.randrange(len(node.input) + 1) :]
    elif kind == 7:
        del node.output[random.randrange(len(node.output) + 1) :]
    else:
        node.CopyFrom(random.choice(graph.node))


class TestBlame:
    def test_a_failure_on_an_invalid_model_is_the_models(self):
        model, _ = residual_mlp(1)
        model.graph.node[0].input[0] = "nowhere"
        with pytest.raises(InputError, match=r"not valid, so its blocks cannot be told: .*nowhere"):
            fail(model)

    def test_a_failure_on_a_valid_model_is_ours(self):
        with pytest.raises(ZeroDivisionError):
            fail(residual_mlp(1)[0])


def fail(model: onnx.ModelProto) -> None:
    with invalid_is_refused(model):
        raise ZeroDivisionError
