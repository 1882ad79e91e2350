"""Turns sound models into odd ones that mean the same: what converters, optimisers and people leave in files."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
from onnx import helper

Oddity = Callable[[onnx.ModelProto, random.Random], None]


def shuffle_nodes(model: onnx.ModelProto, chance: random.Random) -> None:
    """Nodes in any order, as ONNX Runtime takes them."""
    nodes = list(model.graph.node)
    chance.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def add_dead_nodes(model: onnx.ModelProto, chance: random.Random) -> None:
    """Nodes that nobody reads, one behind another, and a weight that nobody reads."""
    values = [name for node in model.graph.node for name in node.output if name]
    for number in range(3):
        read = chance.choice(values)
        place = chance.randint(0, len(model.graph.node))
        place = max(place, 1 + next(i for i, n in enumerate(model.graph.node) if read in n.output))
        dead = helper.make_node("Shape", [read], [f"dead{number}"], name=f"dead{number}")
        model.graph.node.insert(place, dead)
    model.graph.initializer.append(helper.make_tensor("unread", onnx.TensorProto.FLOAT, [2], [0.0, 1.0]))


def fix_batch(model: onnx.ModelProto, chance: random.Random) -> None:
    """The batch fixed in the signature, to one or to a few."""
    size = chance.choice((1, 1, 2, 3))
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and dims and not (dims[0].HasField("dim_value") and dims[0].dim_value):
            dims[0].Clear()
            dims[0].dim_value = size
    del model.graph.value_info[:]


def drop_notes(model: onnx.ModelProto, chance: random.Random) -> None:
    """No notes of inner values."""
    del model.graph.value_info[:]


def falsify_notes(model: onnx.ModelProto, chance: random.Random) -> None:
    """Notes of inner values that are wrong: another size or another rank, as after a cut that did not renew them."""
    inferred = onnx.shape_inference.infer_shapes(model)
    del model.graph.value_info[:]
    for value in inferred.graph.value_info:
        dims = value.type.tensor_type.shape.dim
        if dims and chance.random() < 0.5:
            if chance.random() < 0.3:
                dims.add().dim_value = 5
            else:
                dims[-1].Clear()
                dims[-1].dim_value = 7
        model.graph.value_info.append(value)


def wrap_in_functions(model: onnx.ModelProto, chance: random.Random) -> None:
    """Some operators called through functions that are local to the model."""
    if model.ir_version < 8:
        return
    opsets = [o for o in model.opset_import if o.domain == ""]
    if not any(o.domain == "wrapped" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("wrapped", 1))
    made: set[str] = set()
    for node in model.graph.node:
        plain = node.op_type in ("Relu", "Tanh", "MatMul", "Sigmoid", "Neg") and not node.attribute
        if not plain or node.domain or chance.random() < 0.5:
            continue
        if node.op_type not in made:
            made.add(node.op_type)
            inputs = [f"i{n}" for n in range(len(node.input))]
            body = [helper.make_node(node.op_type, inputs, ["o"])]
            model.functions.append(helper.make_function("wrapped", node.op_type, inputs, ["o"], body, opsets))
        node.domain = "wrapped"


ODDITIES: dict[str, Oddity] = {
    oddity.__name__: oddity
    for oddity in (shuffle_nodes, add_dead_nodes, fix_batch, drop_notes, falsify_notes, wrap_in_functions)
}


def odd_model(model: onnx.ModelProto, seed: int) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of a model with one to three oddities, and their names."""
    chance = random.Random(seed)
    odd = onnx.ModelProto()
    odd.CopyFrom(model)
    names = chance.sample(list(ODDITIES), chance.randint(1, 3))
    # Nodes are put in any order last: what comes before may count on the order.
    names.sort(key=lambda name: name == "shuffle_nodes")
    for name in names:
        ODDITIES[name](odd, chance)
    return odd, tuple(names)
