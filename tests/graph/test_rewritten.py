"""Graphs as other tools write them: TensorFlow's channels-last exports, fused transformers, what optimisers leave."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import GraphBuilder, cut_by_hand, random_feeds, run

from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut

BOTH = (Form.BYPASS, Form.SHORTCUT)


class KerasNet:
    """A ResNet as tf2onnx writes Keras models: values are NHWC, and every convolution stands between two transposes.

    With `merged`, neighbouring transposes have been cancelled, so that whole blocks are NCHW and only the network's
    ends, a pooling along the last axes and the padding of a strided block's skip still tell of TensorFlow.
    """

    def __init__(self, *, merged: bool):
        self.g = GraphBuilder(opset=13)
        self.merged = merged
        self.expected: dict[str, tuple[Form, ...]] = {}
        x = self.g.input("image", ["unk__1", 8, 8, 3])
        x = (
            self.conv("net/conv1_conv", x, 3, 8)
            if not merged
            else self.conv("net/conv1_conv", self.turn(x), 3, 8)
        )
        x = self.op("net/conv1_relu", "Relu", x)
        for stage, (width, stride) in enumerate(((8, 1), (16, 2)), 2):
            for number in (1, 2):
                x = self.block(f"net/conv{stage}_block{number}", x, width, stride if number == 1 else 1)
        axes = [2, 3] if merged else [1, 2]
        x = self.op("net/avg_pool", "ReduceMean", x, axes=axes, keepdims=0)
        self.op(
            "net/predictions/MatMul",
            "MatMul",
            x,
            self.g.normal(16, 5, name="net/predictions/kernel:0"),
            to="out",
        )
        self.model = self.g.model({"out": ["unk__1", 5]})

    def op(self, name: str, kind: str, *inputs: str, to: str | None = None, **attributes) -> str:
        output = self.g.op(kind, *inputs, output=to or f"{name}:0", **attributes)
        self.g.nodes[-1].name = name
        return output

    def turn(self, x: str) -> str:
        return self.op(f"Transpose__{len(self.g.nodes)}", "Transpose", x, perm=[0, 3, 1, 2])

    def conv(self, name: str, x: str, before: int, after: int, *, size: int = 3, stride: int = 1) -> str:
        weight = self.g.normal(after, before, size, size, name=f"{name}/Conv2D/ReadVariableOp:0")
        bias = self.g.normal(after, name=f"{name}/BiasAdd/ReadVariableOp:0")
        x = x if self.merged else self.turn(x)
        x = self.op(f"{name}/BiasAdd", "Conv", x, weight, bias, auto_pad="SAME_UPPER", strides=[stride] * 2)
        if self.merged:
            return x
        return self.op(f"Transpose__{len(self.g.nodes)}", "Transpose", x, perm=[0, 2, 3, 1])

    def block(self, name: str, x: str, width: int, stride: int) -> str:
        before = width if stride == 1 else width // stride
        self.expected[name] = BOTH if stride == 1 else (Form.SHORTCUT,)
        skip = x if stride == 1 else self.conv(f"{name}_0_conv", x, before, width, size=1, stride=stride)
        inner = self.conv(f"{name}_1_conv", x, before, width, stride=stride)
        inner = self.op(f"{name}_1_relu/Relu", "Relu", inner)
        inner = self.conv(f"{name}_2_conv", inner, width, width)
        return self.op(f"{name}_out/Relu", "Relu", self.op(f"{name}_add/add", "Add", skip, inner))


@pytest.mark.parametrize("merged", [False, True], ids=["transpose pairs", "merged"])
def test_keras_resnet_from_tf2onnx(merged):
    net = KerasNet(merged=merged)
    blocks = [block for block in find_blocks(net.model) if block.collapsible]
    assert {block.name: block.forms for block in blocks} == net.expected
    feeds = random_feeds(net.model)
    choices = [[(block, form)] for block in blocks for form in block.forms]
    choices.append([(block, block.forms[0]) for block in blocks])
    for chosen in choices:
        ours = run(collapse_blocks(net.model, [Cut(*choice) for choice in chosen]), feeds)
        np.testing.assert_array_equal(ours[0], run(cut_by_hand(net.model, chosen), feeds)[0])


def fused_gpt(final: str) -> onnx.ModelProto:
    """A pre-norm network whose every sum is fused with the norm after it, the last one with the network's own."""
    g = GraphBuilder(opset=17)
    total = g.input("x", ["N", 5, 8])
    normed = g.op("LayerNormalization", total, g.normal(8), g.normal(8), axis=-1)
    for number in range(3):
        inner = g.op(
            "MatMul",
            g.op("Gelu", g.op("MatMul", normed, g.normal(8, 8)), domain="com.microsoft"),
            g.normal(8, 8),
        )
        outputs = [final if number == 2 else f"n{number}", "", "", f"sum{number}"][: 1 if number == 2 else 4]
        node = onnx.helper.make_node(
            "SkipLayerNormalization",
            [total, inner, g.normal(8), g.normal(8)],
            outputs,
            name=f"skip{number}",
            domain="com.microsoft",
        )
        g.nodes.append(node)
        normed, total = outputs[0], f"sum{number}"
    if final != "out":
        g.op("MatMul", final, g.normal(8, 3), output="out")
    return g.model({"out": None}, infer=False)


@pytest.mark.parametrize("final", ["out", "ln_f"], ids=["norm is the result", "head behind the norm"])
def test_the_last_sum_fused_with_the_final_norm_keeps_the_norm(final):
    """A bypass would drop the final norm, which is no part of the block: only the branch goes."""
    model = fused_gpt(final)
    first, second, last = find_blocks(model)
    assert (first.forms, second.forms, last.forms) == (BOTH, BOTH, (Form.SHORTCUT,))
    assert (last.input, last.units[0].merge_op) == ("sum1", "SkipLayerNormalization")
    result = collapse_blocks(model, [Cut(last, Form.SHORTCUT)])
    feeds = random_feeds(model)
    # The final norm of what the blocks before it sum up to, computed apart.
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.add(name="sum1")
    total = run(seen, feeds)[-1].astype(np.float64)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    skip = next(node for node in model.graph.node if node.name == "skip2")
    gamma, beta = (weights[name] for name in skip.input[2:4])
    centred = total - total.mean(-1, keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * gamma + beta
    if final != "out":
        wanted = wanted @ weights[model.graph.node[-1].input[1]]
    np.testing.assert_allclose(run(result, feeds)[0], wanted, rtol=1e-4, atol=1e-5)


LAYER = "model.encoder.layer.{}"
FUSED = {
    # Of GPT-2's four units the last is fused with ln_f: it goes without its norm, and so is a block of its own.
    ("gpt2", "dynamo", "gpt2"): {
        "model.h.0": BOTH,
        "model.h.1:attn": BOTH,
        "model.h.1:mlp": (Form.SHORTCUT,),
    },
    ("bert", "dynamo", "bert"): {LAYER.format(0): BOTH, LAYER.format(1): BOTH},
    ("bert", "torchscript", "bert"): {LAYER.format(0): BOTH, LAYER.format(1): BOTH},
    ("roberta", "torchscript", "bert"): {LAYER.format(0): BOTH, LAYER.format(1): BOTH},
    ("vit", "torchscript", "vit"): {f"encoder.layers.encoder_layer_{n}": BOTH for n in range(2)},
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exporter", "kind"), FUSED)
def test_onnx_runtimes_transformer_optimiser(name, exporter, kind, tmp_path: Path):
    """Whole attentions, biased GELUs and norms with their sums become single operators; the blocks stay."""
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    import ground_truth
    from architectures import ARCHITECTURES

    architecture = next(architecture for architecture in ARCHITECTURES if architecture.name == name)
    model, expected = ground_truth.exported(architecture, exporter)
    onnx.save(model, tmp_path / "plain.onnx")
    fused = optimizer.optimize_model(
        str(tmp_path / "plain.onnx"), model_type=kind, num_heads=2, hidden_size=32, opt_level=0
    ).model
    found = {block.name: block.forms for block in find_blocks(fused) if block.collapsible}
    wanted = FUSED[name, exporter, kind]
    assert list(found.values()) == list(wanted.values())
    assert {label.partition(":")[0] for label in found} == set(expected)
    assert {label.partition(":")[0] for label in wanted} == set(expected)


def test_a_unit_alone_ends_where_shapes_agree():
    """A module of two units that flattens between them: the first one's bypass ends before the flattening."""
    g = GraphBuilder()
    x = g.input("x", [2, 3, 4, 8])
    first = g.op("Add", x, g.op("MatMul", g.op("Tanh", x), g.normal(8, 8, name="b.a.w")), output="first")
    flat = g.op("Reshape", first, g.weight([2, 12, 8], dtype=np.int64), output="flat")
    inner = g.op("MatMul", g.op("Tanh", flat), g.normal(8, 8, name="b.m.w"))
    g.op("Reshape", g.op("Add", flat, inner), g.weight([2, 3, 4, 8], dtype=np.int64), output="y")
    for node, scope in zip(g.nodes, ("a", "a", "", "", "m", "m", "", ""), strict=True):
        node.name = f"/b/{scope}/{node.op_type}".replace("//", "/")
    units = find_blocks(g.model({"y": [2, 3, 4, 8]}), granularity="unit")
    assert [(unit.name, unit.forms) for unit in units] == [("b:a", BOTH), ("b:m", BOTH)]
    assert (units[0].input, units[0].output) == ("x", "first")
