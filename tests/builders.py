"""Builds ONNX graphs in a few lines, runs them, and cuts blocks by hand: the oracle that surgery is held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lacoot_deploy.graph.model.blocks import Block, Form, Reason, ResidualUnit

FLOAT = TensorProto.FLOAT


class GraphBuilder:
    """Collects nodes and weights; every call of an operator gives the name of its output.

    >>> g = GraphBuilder()
    >>> x = g.input("x", ["N", 8])
    >>> y = g.op("Relu", x, output="y")
    >>> model = g.model(outputs={"y": ["N", 8]})
    """

    def __init__(self, *, opset: int = 17, ir_version: int = 8, seed: int = 0):
        self.opset = opset
        self.ir_version = ir_version
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.domains: set[str] = set()
        self._count = 0

    def fresh(self, wish: str) -> str:
        self._count += 1
        return f"{wish}_{self._count}"

    def input(self, name: str, shape: Sequence[int | str | None], dtype: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def weight(self, values: Any, *, name: str | None = None, dtype: Any = np.float32) -> str:
        name = name or self.fresh("w")
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def normal(
        self, *shape: int, scale: float = 0.3, name: str | None = None, dtype: Any = np.float32
    ) -> str:
        return self.weight(self.random.normal(0, scale, shape), name=name, dtype=dtype)

    def op(
        self, kind: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        output = output or self.fresh(kind.lower())
        node = helper.make_node(
            kind, list(inputs), [output], name=f"{kind}_{output}", domain=domain, **attributes
        )
        self.nodes.append(node)
        self.domains.add(domain)
        return output

    def graph(
        self, outputs: Mapping[str, Sequence[int | str | None] | None], *, dtype: int = FLOAT
    ) -> onnx.GraphProto:
        infos = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()]
        return helper.make_graph(self.nodes, "built", self.inputs, infos, self.weights)

    def model(
        self,
        outputs: Mapping[str, Sequence[int | str | None] | None],
        *,
        dtype: int = FLOAT,
        infer: bool = True,
    ) -> onnx.ModelProto:
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in sorted(self.domains - {""})]
        model = helper.make_model(
            self.graph(outputs, dtype=dtype),
            opset_imports=imports,
            ir_version=self.ir_version,
            producer_name="builders",
        )
        return onnx.shape_inference.infer_shapes(model) if infer else model


def make_block(
    name: str,
    x: str,
    y: str,
    *,
    branch: str = "",
    merge: str | None = None,
    skip: str | None = None,
    trailing: Sequence[str] = (),
    units: Sequence[ResidualUnit] = (),
    forms: Sequence[Form] = (Form.BYPASS, Form.SHORTCUT),
    shape: tuple[int | str | None, ...] | None = None,
    output_shape: tuple[int | str | None, ...] | None = None,
    dtype: str | None = "float32",
    merge_op: str = "Add",
    keep_relu: bool = False,
    scope: tuple[str, ...] = (),
    reason: Reason | None = None,
) -> Block:
    """A block as discovery would describe it, written by hand; with one unit unless `units` are given."""
    unit = ResidualUnit(
        name=name,
        input=x,
        skip=skip if skip is not None else x,
        branch=branch,
        merge=merge if merge is not None else y,
        merge_op=merge_op,
        trailing=tuple(trailing),
        output=y,
    )
    return Block(
        name=name,
        input=x,
        output=y,
        units=tuple(units) or (unit,),
        forms=tuple(forms),
        shape=shape,
        output_shape=output_shape or shape,
        dtype=dtype,
        nodes=(),
        parameters=0,
        macs=None,
        reason=reason,
        keep_relu=keep_relu,
        scope=scope,
    )


def residual_mlp(
    blocks: int = 3,
    *,
    width: int = 8,
    relu: bool = True,
    stem_relu: bool = True,
    head: bool = True,
    seed: int = 0,
    opset: int = 17,
    dtype: Any = np.float32,
) -> tuple[onnx.ModelProto, tuple[Block, ...]]:
    """A chain y = [relu](x + W2 relu(W1 x)) with its blocks; without `head` the last block's output is the model's."""
    g = GraphBuilder(seed=seed, opset=opset)
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = g.op("Gemm", g.input("x", ["N", width], elem), g.normal(width, width, dtype=dtype), output="stem")
    if stem_relu:
        value = g.op("Relu", value, output="stem_relu")
    non_negative = stem_relu
    found = []
    for number in range(blocks):
        name = f"layer{number}"
        hidden = g.op("Relu", g.op("MatMul", value, g.normal(width, width, dtype=dtype, name=f"{name}.w1")))
        branch = g.op(
            "MatMul", hidden, g.normal(width, width, dtype=dtype, name=f"{name}.w2"), output=f"{name}.branch"
        )
        merge = g.op("Add", branch, value, output=f"{name}.sum")
        out = g.op("Relu", merge, output=f"{name}.out") if relu else merge
        found.append(
            make_block(
                name,
                value,
                out,
                branch=branch,
                merge=merge,
                trailing=[out] if relu else (),
                shape=("N", width),
                dtype=np.dtype(dtype).name,
                keep_relu=relu and not non_negative,
            )
        )
        value, non_negative = out, relu
    if head:
        value = g.op("Gemm", value, g.normal(width, 3, dtype=dtype, name="head.w"), output="logits")
    return g.model({value: ["N", 3 if head else width]}, dtype=elem), tuple(found)


def residual_cnn(
    blocks: int = 3,
    *,
    channels: int = 4,
    relu: bool = True,
    head: bool = True,
    seed: int = 0,
    opset: int = 17,
    size: int = 8,
    dtype: Any = np.float32,
) -> tuple[onnx.ModelProto, tuple[Block, ...]]:
    """A chain of y = [relu](x + conv(relu(conv(x)))) on NCHW images, with its blocks."""
    g = GraphBuilder(seed=seed, opset=opset)
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def conv(value: str, out: int, name: str, **options: Any) -> str:
        weight = g.normal(out, 3 if name == "stem" else channels, 3, 3, dtype=dtype, name=f"{name}.weight")
        bias = g.normal(out, dtype=dtype, name=f"{name}.bias")
        return g.op("Conv", value, weight, bias, pads=[1, 1, 1, 1], kernel_shape=[3, 3], **options)

    value = g.op(
        "Relu", conv(g.input("image", ["N", 3, size, size], elem), channels, "stem"), output="stem_relu"
    )
    found = []
    for number in range(blocks):
        name = f"layer{number}"
        branch = conv(g.op("Relu", conv(value, channels, f"{name}.conv1")), channels, f"{name}.conv2")
        merge = g.op("Add", branch, value, output=f"{name}.sum")
        out = g.op("Relu", merge, output=f"{name}.out") if relu else merge
        found.append(
            make_block(
                name,
                value,
                out,
                branch=branch,
                merge=merge,
                trailing=[out] if relu else (),
                shape=("N", channels, size, size),
                dtype=np.dtype(dtype).name,
            )
        )
        value = out
    if head:
        pooled = g.op("Flatten", g.op("GlobalAveragePool", value))
        value = g.op("Gemm", pooled, g.normal(channels, 3, dtype=dtype, name="head.w"), output="logits")
    shape = ["N", 3] if head else ["N", channels, size, size]
    return g.model({value: shape}, dtype=elem), tuple(found)


def random_feeds(model: onnx.ModelProto, *, batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for every input that has no default; symbolic and unknown dimensions become `batch`."""
    random = np.random.default_rng(seed)
    defaults = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in defaults:
            continue
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [d.dim_value if d.dim_value > 0 else batch for d in value.type.tensor_type.shape.dim]
        if kind.kind == "f":
            feeds[value.name] = random.normal(size=shape).astype(kind)
        else:
            feeds[value.name] = random.integers(0, 2, size=shape).astype(kind)
    return feeds


def run(
    model: onnx.ModelProto | str,
    feeds: Mapping[str, np.ndarray],
    *,
    outputs: Sequence[str] | None = None,
    optimised: bool = False,
) -> list[np.ndarray]:
    """Run a model (or a model file) in ONNX Runtime on the CPU, with graph optimisations off unless asked for."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, str) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return list(session.run(outputs, dict(feeds)))


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from all_graphs(inner)


def cut_by_hand(model: onnx.ModelProto, blocks: Sequence[tuple[Block, Form]]) -> onnx.ModelProto:
    """Cut blocks in raw protobuf, by nothing but renaming: no graphsurgeon, none of the surgery under test.

    Dead nodes and weights stay in the model; a runtime skips them. The source that replaces a value is put behind an
    Identity (or the kept Relu) that takes over the value's old name, so no reader and no output needs to change.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for block, form in blocks:
        if form is Form.BYPASS:
            _replace_value(result.graph, block.output, block.input, "Relu" if block.keep_relu else "Identity")
        else:
            for unit in block.units:
                _replace_value(result.graph, unit.merge, unit.skip, "Identity")
    return result


def _replace_value(graph: onnx.GraphProto, old: str, source: str, kind: str) -> None:
    places = [
        (inner, place, slot)
        for inner in all_graphs(graph)
        for place, node in enumerate(inner.node)
        for slot, name in enumerate(node.output)
        if name == old
    ]
    assert len(places) == 1, f"{old} is computed {len(places)} times"
    inner, place, slot = places[0]
    inner.node[place].output[slot] = f"{old}__cut"
    inner.node.insert(place + 1, helper.make_node(kind, [source], [old], name=f"by_hand_{old}"))
    for value in list(inner.value_info):
        if value.name == old:
            inner.value_info.remove(value)


def own_answers(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    """The classes that a network tells itself: labels that belong to it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0].argmax(axis=1)
