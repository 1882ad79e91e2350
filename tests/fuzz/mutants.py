"""Graphs damaged by a string of bytes: every few bytes are one change, so that a fuzzer can search among them."""

from __future__ import annotations

import onnx
from builders import GraphBuilder, residual_cnn, residual_mlp
from onnx import TensorProto, helper

KINDS = (
    "Relu", "Add", "Sum", "Foo", "Split", "Reshape", "Concat", "If", "Loop", "Scan", "Identity", "Constant", "Cast",
    "Conv", "MatMul", "Gemm", "Transpose", "Pad", "Slice", "Shape", "Gather", "Expand", "Tile", "Squeeze", "Unsqueeze",
    "LayerNormalization", "BatchNormalization", "SkipLayerNormalization", "DequantizeLinear", "Mul", "Sub", "Clip",
    "ConstantOfShape", "Resize", "GlobalAveragePool", "QLinearAdd", "Range", "Where", "Einsum", "CastLike", "Flatten",
)  # fmt: skip
ATTRIBUTES = ("axis", "axes", "pads", "strides", "perm", "to", "value", "group", "kernel_shape", "keepdims", "auto_pad",
              "then_branch", "body", "epsilon", "equation", "allowzero", "split", "num_outputs")  # fmt: skip
SIZES = (0, 1, 2, 3, 4, 7, 8, 64, 2**31 - 1, 2**31, 2**62, -1, -2, -(2**63))


class Reader:
    """Reads small numbers off a string of bytes; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def __bool__(self) -> bool:
        return self.place < len(self.data)

    def below(self, limit: int) -> int:
        """A number from 0 to below the limit."""
        if limit <= 0:
            return 0
        value = 0
        for _ in range(1 if limit <= 256 else 2):
            value = value * 256 + (self.data[self.place] if self.place < len(self.data) else 0)
            self.place += 1
        return value % limit

    def choose(self, options):
        """One of the options."""
        return options[self.below(len(options))]


def with_branches() -> onnx.ModelProto:
    """A residual chain, one block of it in an If body, read by it and by a function call."""
    g = GraphBuilder(opset=18)
    x, flag = g.input("x", ["N", 4]), g.input("flag", [], TensorProto.BOOL)
    w = g.normal(4, 4, name="w")
    a = g.op("Relu", g.op("Add", g.op("MatMul", x, w), x), output="a")
    bodies = {}
    for label in ("then_branch", "else_branch"):
        inner = GraphBuilder(opset=18)
        inner.op("Add", inner.op("MatMul", a, w, output=f"{label}.m"), a, output=f"{label}.out")
        bodies[label] = inner.graph({f"{label}.out": ["N", 4]})
    b = g.op("If", flag, **bodies, output="b")
    c = g.op("Add", g.op("Twice", b, domain="local"), b, output="c")
    g.op("Add", g.op("Gemm", c, w, g.normal(4, name="bias")), c, output="y")
    model = g.model({"y": ["N", 4], "a": ["N", 4]}, infer=False)
    body = [helper.make_node("Add", ["t", "t"], ["u"])]
    model.functions.append(
        helper.make_function("local", "Twice", ["t"], ["u"], body, [helper.make_opsetid("", 18)])
    )
    return model


def bases() -> list[onnx.ModelProto]:
    """What is damaged."""
    return [residual_mlp(2, width=4)[0], residual_cnn(2, channels=2)[0], with_branches()]


def mutant(data: bytes, models: list[onnx.ModelProto]) -> onnx.ModelProto:
    """The model that the bytes make of one of the models."""
    read = Reader(data)
    model = onnx.ModelProto()
    model.CopyFrom(read.choose(models))
    changes = 0
    while read and changes < 12:
        change(model, read)
        changes += 1
    return model


def change(model: onnx.ModelProto, read: Reader) -> None:
    graphs = [model.graph]
    for node in model.graph.node:
        graphs += [a.g for a in node.attribute if a.HasField("g")]
    graph = graphs[0] if read.below(4) else read.choose(graphs)
    names = [name for node in graph.node for name in node.output] + [t.name for t in graph.initializer]
    names += ["", "new", *(value.name for value in graph.input)]
    node = read.choose(graph.node) if graph.node else graph.node.add()
    kind = read.below(20)
    if kind == 0:
        graph.node.remove(node)
    elif kind == 1 and node.input:
        node.input[read.below(len(node.input))] = read.choose(names)
    elif kind == 2 and node.output:
        node.output[read.below(len(node.output))] = read.choose(names)
    elif kind == 3:
        node.op_type = read.choose(KINDS)
    elif kind == 4:
        node.input.append(read.choose(names))
    elif kind == 5:
        graph.output.add(name=read.choose(names))
    elif kind == 6:
        del node.input[read.below(len(node.input) + 1) :]
    elif kind == 7:
        del node.output[read.below(len(node.output) + 1) :]
    elif kind == 8:
        node.CopyFrom(read.choose(graph.node))
    elif kind == 9:
        node.domain = read.choose(["", "ai.onnx", "com.microsoft", "local", "ai.onnx.ml"])
    elif kind == 10:
        attribute = node.attribute.add(name=read.choose(ATTRIBUTES), type=read.below(15))
        attribute.i = read.choose(SIZES)
        attribute.ints.extend(read.choose(SIZES) for _ in range(read.below(5)))
        attribute.f = 0.5
    elif kind == 11 and graph.initializer:
        tensor = read.choose(graph.initializer)
        tensor.dims[:] = [read.choose(SIZES) for _ in range(read.below(5))]
    elif kind == 12 and graph.initializer:
        read.choose(graph.initializer).data_type = read.below(30)
    elif kind == 13 and graph.initializer:
        tensor = read.choose(graph.initializer)
        tensor.raw_data = tensor.raw_data[: read.below(len(tensor.raw_data) + 1)]
    elif kind == 14 and graph.initializer:
        tensor = read.choose(graph.initializer)
        graph.initializer.add().CopyFrom(tensor)
        tensor.name = read.choose(names)
    elif kind == 15:
        values = read.choose([graph.input, graph.output, graph.value_info])
        if values:
            value = read.choose(values)
            del value.type.tensor_type.shape.dim[:]
            for _ in range(read.below(6)):
                size = read.choose((*SIZES, None))
                dim = value.type.tensor_type.shape.dim.add()
                if size is None:
                    dim.dim_param = read.choose(["N", "", "N*2", "(" * 40])
                else:
                    dim.dim_value = size
            value.type.tensor_type.elem_type = read.choose([1, 1, 1, 7, 10, 11, 16, 0, 99])
    elif kind == 16:
        place = read.below(len(graph.node))
        moved = onnx.NodeProto()
        moved.CopyFrom(graph.node[place])
        del graph.node[place]
        graph.node.insert(read.below(len(graph.node) + 1), moved)
    elif kind == 17 and model.functions:
        function = model.functions[0]
        inner = read.choose(function.node) if function.node else function.node.add()
        inner.op_type, inner.domain = read.choose(
            [("Twice", "local"), ("Add", ""), ("MatMul", ""), ("Foo", "x")]
        )
        inner.input[:] = [read.choose(["t", "u", "", "v"]) for _ in range(read.below(4))]
        inner.output[:] = [read.choose(["t", "u", "", "v"]) for _ in range(read.below(3))]
    elif kind == 18:
        model.ir_version = read.choose([0, 1, 3, 4, 8, 13, 2**31])
        model.opset_import[0].version = read.choose([0, 1, 6, 11, 18, 25, 2**40, -1])
    elif graph.initializer:
        tensor = read.choose(graph.initializer)
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, values in (("location", ("w.bin", "../x", "/etc/passwd", "", "w.bin/..", "no")),
                            ("offset", ("0", "8", "-1", "99999999999999999999", "x", "")),
                            ("length", ("64", "8", "0", "-8", "9" * 30, ""))):  # fmt: skip
            tensor.external_data.add(key=key, value=read.choose(values))
