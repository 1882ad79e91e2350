"""Decoders with key-value caches, built by hand in the three ways in which they are met, and run token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from builders import GraphBuilder
from onnx import TensorProto, helper

VOCABULARY, WIDTH, HEADS = 48, 32, 2
SIZE = WIDTH // HEADS
KINDS = ("concat", "group query", "opset 23")


def decoder(kind: str, layers: Sequence[int]) -> onnx.ModelProto:
    """A decoder of some of the layers of one network: a layer's weights depend on its number alone.

    Args:
        kind: `concat` spells attention out; `group query` is what ONNX Runtime's builder writes, with fused norms and
            4-bit weights; `opset 23` uses the standard operator.
        layers: Numbers of the layers; caches are numbered from 0.
    """
    g = GraphBuilder(opset=23 if kind == "opset 23" else 17, ir_version=10, seed=99)
    ids = g.input("input_ids", ["batch", "seq"], TensorProto.INT64)
    g.input("attention_mask", ["batch", "total"], TensorProto.INT64)
    if kind == "group query":
        lengths = g.op("ReduceSum", "attention_mask", g.weight([1], dtype=np.int64), keepdims=0)
        lengths = g.op("Cast", g.op("Sub", lengths, g.weight(1, dtype=np.int64)), to=TensorProto.INT32)
        total = g.op("Gather", g.op("Shape", "attention_mask"), g.weight(1, dtype=np.int64))
        shared = (lengths, g.op("Cast", total, to=TensorProto.INT32))
    else:
        shared = ()
    x = g.op("Gather", g.normal(VOCABULARY, WIDTH, scale=1), ids)
    outputs: dict[str, list[int | str]] = {"logits": ["batch", "seq", VOCABULARY]}
    normed = _norm(g, x, kind)
    for place, number in enumerate(layers):
        g.random = np.random.default_rng(number)
        for part in ("key", "value"):
            g.input(f"past_key_values.{place}.{part}", ["batch", HEADS, "past", SIZE])
            outputs[f"present.{place}.{part}"] = ["batch", HEADS, "total", SIZE]
        x, normed = _add(g, x, _attention(g, normed, place, kind, shared), place, "attn", kind)
        inner = g.op("Relu", _linear(g, normed, place, "mlp.up", kind))
        x, normed = _add(g, x, _linear(g, inner, place, "mlp.down", kind), place, "mlp", kind)
    g.random = np.random.default_rng(98)
    g.op("MatMul", normed, g.normal(WIDTH, VOCABULARY, scale=1), output="logits")
    model = g.model(outputs, infer=False)
    if kind == "opset 23":
        model.ir_version = 11
    return model


def _norm(g: GraphBuilder, x: str, kind: str) -> str:
    if kind == "opset 23":
        return g.op("RMSNormalization", x, g.weight(np.ones(WIDTH)), axis=-1, epsilon=1e-5)
    op = "SimplifiedLayerNormalization" if kind == "group query" else "LayerNormalization"
    return g.op(op, x, g.weight(np.ones(WIDTH)), axis=-1, epsilon=1e-5)


def _add(g: GraphBuilder, x: str, branch: str, place: int, part: str, kind: str) -> tuple[str, str]:
    """The sum and the norm of what comes next; as one node where the kind fuses them, named as the builder names it."""
    if kind != "group query":
        total = g.op("Add", x, branch)
        g.nodes[-1].name = f"/model/layers.{place}/Add_{part}"
        return total, _norm(g, total, kind)
    total, normed = g.fresh("sum"), g.fresh("normed")
    last = f"layers.{place + 1}/input_layernorm" if part == "mlp" else f"layers.{place}/post_layernorm"
    g.nodes.append(
        helper.make_node(
            "SkipSimplifiedLayerNormalization",
            [x, branch, g.weight(np.ones(WIDTH))],
            [normed, "", "", total],
            name=f"/model/{last}/SkipLayerNorm",
            domain="com.microsoft",
            epsilon=1e-5,
        )
    )
    g.domains.add("com.microsoft")
    return total, normed


def _linear(g: GraphBuilder, x: str, place: int, part: str, kind: str) -> str:
    if kind == "group query":
        packed = g.weight(g.random.integers(0, 256, (WIDTH, 1, WIDTH // 2)), dtype=np.uint8)
        scales = g.weight(np.full(WIDTH, 0.03))
        y = g.op(
            "MatMulNBits", x, packed, scales, domain="com.microsoft", K=WIDTH, N=WIDTH, bits=4, block_size=32
        )
    else:
        y = g.op("MatMul", x, g.normal(WIDTH, WIDTH))
    g.nodes[-1].name = f"/model/layers.{place}/{part.replace('.', '/')}_proj/MatMul"
    return y


def _attention(g: GraphBuilder, x: str, place: int, kind: str, shared: tuple[str, ...]) -> str:
    q, k, v = (_linear(g, x, place, f"attn.{part}", kind) for part in "qkv")
    past = [f"past_key_values.{place}.{part}" for part in ("key", "value")]
    present = [f"present.{place}.{part}" for part in ("key", "value")]
    if kind == "concat":
        out = _spelt_out(g, [q, k, v], past, present)
    else:
        heads = {"num_heads": HEADS, "kv_num_heads": HEADS}
        operands, domain, op = [q, k, v, *past, *shared], "com.microsoft", "GroupQueryAttention"
        if kind == "opset 23":
            heads = {"q_num_heads": HEADS, "kv_num_heads": HEADS, "is_causal": 1}
            operands, domain, op = [q, k, v, "", *past], "", "Attention"
        out = g.fresh("attended")
        g.nodes.append(
            helper.make_node(op, operands, [out, *present], name=f"attention{place}", domain=domain, **heads)
        )
    return _linear(g, out, place, "attn.o", kind)


def _spelt_out(g: GraphBuilder, operands: list[str], past: list[str], present: list[str]) -> str:
    split = g.weight([0, 0, HEADS, SIZE], dtype=np.int64)
    q, k, v = (g.op("Transpose", g.op("Reshape", value, split), perm=[0, 2, 1, 3]) for value in operands)
    k = g.op("Concat", past[0], k, axis=2, output=present[0])
    v = g.op("Concat", past[1], v, axis=2, output=present[1])
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = g.op("MatMul", g.op("Softmax", g.op("Mul", scores, g.weight(SIZE**-0.5)), axis=-1), v)
    return g.op(
        "Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.weight([0, 0, WIDTH], dtype=np.int64)
    )


def generate(model: onnx.ModelProto, prompt: Sequence[int], steps: int) -> list[int]:
    """Tokens that a decoder gives, one after the other, from its caches; the prompt goes in token by token too."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {value.name: value.shape for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    past = {
        name: np.zeros([d if isinstance(d, int) else 1 - (at == 2) for at, d in enumerate(shape)], np.float32)
        for name, shape in inputs.items()
        if name.startswith("past")
    }
    tokens, waiting = list(prompt), list(prompt)
    for done in range(len(prompt) + steps - 1):
        token = waiting.pop(0) if waiting else tokens[-1]
        feeds = {
            "input_ids": np.array([[token]]),
            "attention_mask": np.ones((1, done + 1), np.int64),
            "position_ids": np.array([[done]]),
            **past,
        }
        got = dict(
            zip(names, session.run(None, {n: v for n, v in feeds.items() if n in inputs}), strict=True)
        )
        if not waiting:
            tokens.append(int(got["logits"][0, -1].argmax()))
        past = {name: got[name.replace("past_key_values", "present")] for name in past}
    return tokens[len(prompt) :]
