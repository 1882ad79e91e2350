"""Random valid models: residual and not, with everything odd that the format allows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

T = TypeVar("T")
WIDTH = 4
TYPES: dict[str, tuple[int, Any]] = {
    "float32": (TensorProto.FLOAT, np.float32),
    "float64": (TensorProto.DOUBLE, np.float64),
    "float16": (TensorProto.FLOAT16, np.float16),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
ODD_NAMES = (
    "v{}", "/layer{}/Add_output_0", "ünï {}", "値{}", "a b  {}", "{}", "x.{}.y", "🙂{}", "q'\"{}", "-{}", "é{}",
    "e\u0301{}", "n\n{}", "\\{}", "{}" + "long" * 40, "If_{}/then", "layer0.out{}", "Relu_output_{}", "None{}",
)  # fmt: skip


class Choices:
    """Where the choices come from: a seeded generator, or hypothesis' draws."""

    def __init__(self, below: Callable[[int], int]) -> None:
        self.below = below

    @classmethod
    def seeded(cls, seed: int) -> Choices:
        return cls(random.Random(seed).randrange)

    def flag(self, one_in: int = 2) -> bool:
        return self.below(one_in) == one_in - 1

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]


class Maker:
    """Builds one model."""

    def __init__(self, choices: Choices) -> None:
        self.c = choices
        self.kind = self.c.pick(
            ("float32", "float32", "float32", "float32", "float64", "float16", "bfloat16")
        )
        self.elem, self.numpy = TYPES[self.kind]
        # Before 16 no If or Loop takes bfloat16.
        self.opset = self.c.pick((17, 18, 20) if self.kind == "bfloat16" else (13, 15, 17, 18, 20))
        self.ir = self.c.pick((7, 8, 8, 10))
        self.batch = self.c.pick(("N", 2, "batch size", None))
        self.odd = self.c.flag()
        self.weights: list[onnx.TensorProto] = []
        self.functions: dict[str, onnx.FunctionProto] = {}
        self.metadata = self.c.flag(4)
        self.count = 0
        self.values = np.random.default_rng(self.c.below(1000))
        self.shared: str | None = None

    def fresh(self) -> str:
        self.count += 1
        wish = self.c.pick(ODD_NAMES) if self.odd else "v{}"
        return wish.format(f"{self.count}_")

    def array(self, *shape: int) -> np.ndarray:
        return (self.values.normal(0, 0.5, shape)).astype(self.numpy)

    def tensor(self, array: np.ndarray, name: str) -> onnx.TensorProto:
        return helper.make_tensor(name, self.elem, array.shape, array.astype(self.numpy).tobytes(), raw=True)

    def weight(self, body: Body, *shape: int) -> str:
        """A weight: an initializer here or outside, shared or not, or the output of a Constant node."""
        if shape == (WIDTH, WIDTH) and self.shared is not None and self.c.flag(5):
            return self.shared
        name = self.fresh()
        tensor = self.tensor(self.array(*shape), name)
        if self.c.flag(5):
            return body.node("Constant", [], value=tensor, output=name)
        if self.c.flag(4):
            body.weights.append(tensor)
            return name
        self.weights.append(tensor)
        if shape == (WIDTH, WIDTH):
            self.shared = name
        return name

    def info(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self.elem, [self.batch, WIDTH])


class Body:
    """One graph: the main one, or one inside a node, which sees the values around it."""

    def __init__(self, maker: Maker, seen: Sequence[str], depth: int) -> None:
        self.m, self.c, self.depth = maker, maker.c, depth
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.seen = list(seen)

    def node(self, op: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any) -> str:
        output = output or self.m.fresh()
        name = "" if self.m.odd and self.c.flag(3) else f"{op}_{output}"
        node = helper.make_node(op, list(inputs), [output], name=name, **attributes)
        if self.m.metadata:
            node.metadata_props.add(
                key="pkg.torch.onnx.name_scopes",
                value=repr(["", "layers", f"layers.{len(self.nodes) // 5}", "op"]),
            )
            node.doc_string = self.c.pick(("", "a note"))
        self.nodes.append(node)
        return output

    def work(self, x: str) -> str:
        """A few operators from a value to one of its shape."""
        for _ in range(1 + self.c.below(3)):
            x = self.c.pick((self._linear, self._linear, self._pointwise, self._odd, self._call))(x)
        return x

    def _linear(self, x: str) -> str:
        kind = self.c.below(3)
        w = self.m.weight(self, WIDTH, WIDTH)
        if kind == 0:
            return self.node("MatMul", [x, w])
        if kind == 1:
            bias = [self.m.weight(self, WIDTH)] if self.c.flag() else []
            return self.node("Gemm", [x, w, *bias], transB=self.c.below(2))
        pair = [self.node("MatMul", [x, w]), self.m.weight(self, WIDTH)]
        return self.node("Add", pair if self.c.flag() else pair[::-1])

    def _pointwise(self, x: str) -> str:
        return self.node(self.c.pick(("Relu", "Tanh", "Sigmoid", "Neg", "Abs", "Identity")), [x])

    def _odd(self, x: str) -> str:
        """Operators with optional inputs and outputs left out in the middle, and sums that are no merges."""
        kind = self.c.below(6)
        if kind == 0:
            high = self.m.weight(self)
            return self.node("Clip", [x, "", high])
        if kind == 1:
            return self.node("Clip", [x])
        if kind == 2:
            return self.node("Mul", [x, self.m.weight(self, WIDTH)])
        if kind == 3:
            both = self.node("Concat", [x, self.c.pick(self.seen)], axis=1)
            return self.node("MatMul", [both, self.m.weight(self, 2 * WIDTH, WIDTH)])
        if kind == 4:
            return self.node("Dropout", [x])
        return self.node("Mul", [x, self.node("Sigmoid", [self.c.pick(self.seen)])])

    def _call(self, x: str) -> str:
        """A call of a function that is local to the model."""
        if self.m.kind != "float32" or not self.c.flag():
            return self._pointwise(x)
        name = self.c.pick(("Twice", "Inner"))
        if name not in self.m.functions:
            body = [helper.make_node("Tanh", ["t"], ["s"]), helper.make_node("Add", ["t", "s"], ["u"])]
            opsets = [helper.make_opsetid("", self.m.opset)]
            self.m.functions[name] = helper.make_function("local", name, ["t"], ["u"], body, opsets)
        return self.node(name, [x], domain="local")

    def unit(self, x: str, within: int = 0) -> str:
        """A residual unit, or something that looks like one."""
        branch = self.unit(x, within + 1) if within < 2 and self.c.flag(6) else self.work(x)
        skip = x
        shape = self.c.below(8)
        if shape == 0:
            skip = self.node("MatMul", [x, self.m.weight(self, WIDTH, WIDTH)])
        elif shape == 1:
            skip = self.node("Identity", [x])
        elif shape == 2:
            skip = self.c.pick(self.seen)
        pair = [branch, skip] if self.c.flag() else [skip, branch]
        merge = self.c.below(10)
        if merge == 0:
            y = self.node("Sum", pair)
        elif merge == 1:
            y = self.node("Sum", [*pair, self.work(x)])
        elif merge == 2:
            y = self.node(self.c.pick(("Sub", "Mul", "Max")), pair)
        else:
            y = self.node("Add", pair)
        trailing = self.c.below(6)
        if trailing == 0:
            y = self.node("Relu", [y])
        elif trailing == 1:
            y = self.node("Clip", [y, self.m.weight(self), ""])
        elif trailing == 2:
            y = self.node(self.c.pick(("Tanh", "Identity", "Dropout")), [y])
        elif trailing == 3 and self.m.opset >= 17 and self.m.kind in ("float32", "float64"):
            y = self.node("LayerNormalization", [y, self.m.weight(self, WIDTH)], axis=-1)
        return y

    def nested(self, x: str) -> str:
        """An If, or a Loop of two rounds, with residual units inside that read values from around."""
        if self.depth >= 2:
            return self.unit(x)
        if self.c.flag(3):
            return self._loop(x)
        branches = {}
        for label in ("then_branch", "else_branch"):
            inner = Body(self.m, self.seen, self.depth + 1)
            y = inner.steps(x, 1 + self.c.below(2))
            y = inner.node("Identity", [y])
            branches[label] = helper.make_graph(inner.nodes, "b", [], [self.m.info(y)], inner.weights)
        return self.node("If", ["flag"], **branches)

    def _loop(self, x: str) -> str:
        inner = Body(self.m, self.seen, self.depth + 1)
        i, go, carried = self.m.fresh(), self.m.fresh(), self.m.fresh()
        inner.seen.append(carried)
        going = inner.node("Identity", [go])
        y = inner.node("Identity", [inner.unit(carried)])
        scalars = [helper.make_tensor_value_info(i, 7, []), helper.make_tensor_value_info(go, 9, [])]
        result = helper.make_tensor_value_info(going, 9, [])
        body = helper.make_graph(
            inner.nodes, "l", [*scalars, self.m.info(carried)], [result, self.m.info(y)], inner.weights
        )
        count = self.m.fresh()
        self.m.weights.append(numpy_helper.from_array(np.array(2, np.int64), count))
        return self.node("Loop", [count, "", x], body=body)

    def steps(self, x: str, count: int) -> str:
        for _ in range(count):
            kind = self.c.below(8)
            x = self.nested(x) if kind == 0 else self.work(x) if kind == 1 else self.unit(x)
            self.seen.append(x)
            if self.c.flag(8):
                self.node("Neg", [x])  # nobody reads it
        return x


def random_model(choices: Choices) -> onnx.ModelProto:
    """A valid model of the choices."""
    maker = Maker(choices)
    x = maker.fresh()
    main = Body(maker, [x], 0)
    y = main.steps(x, 1 + choices.below(5))
    if y == x:
        y = main.node("Identity", [x])
    made = {name for node in main.nodes for name in node.output if name}
    outputs = [y, *(name for name in main.seen if name in made and name != y and choices.flag(4))]
    used = {name for node in every_node(main.nodes) for name in node.input}
    weights = maker.weights + main.weights
    inputs = [maker.info(x)]
    if "flag" in used or choices.flag(8):
        inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    if choices.flag(6):
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    if choices.flag(6):
        weights.append(maker.tensor(maker.array(3), maker.fresh()))  # nobody reads it
    graph = helper.make_graph(main.nodes, choices.pick(("g", "ünï", "a b")), inputs, [], weights)
    graph.output.extend(maker.info(name) for name in dict.fromkeys(outputs))
    opsets = [helper.make_opsetid("", maker.opset)]
    if maker.functions:
        opsets.append(helper.make_opsetid("local", 1))
    ir = max(maker.ir, 8) if maker.functions else maker.ir
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=ir, functions=list(maker.functions.values())
    )
    if choices.flag(3):
        model = onnx.shape_inference.infer_shapes(model)
    if choices.flag(4):
        model.metadata_props.add(key="who", value="値")
    return model


def every_node(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    found = list(nodes)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += every_node(attribute.g.node)
    return found
