"""Two operators of a model as a model of their own, so that a runtime can say whether merging them pays."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from lacoot_deploy.graph.linear.editor import Editor
from lacoot_deploy.graph.linear.operators import Operator
from lacoot_deploy.graph.shapes.dims import sample_value


def pair_model(editor: Editor, first: Operator, second: Operator) -> onnx.ModelProto:
    """The part of a model from the input of one operator to the result of the one that reads it.

    Free dimensions are 1, weights are copied in.
    """
    nodes = list(first.nodes)
    while nodes[-1].output[0] != second.input:
        reader = editor.sole_reader(nodes[-1].output[0])
        assert reader is not None, "nothing else reads what stands between two operators that can be merged"
        nodes.append(reader)
    nodes += second.nodes
    made = {name for node in nodes for name in node.output}
    known = {tensor.name: tensor for tensor in editor.model.graph.initializer}
    part = onnx.ModelProto(ir_version=editor.model.ir_version)
    part.opset_import.extend(editor.model.opset_import)
    graph = part.graph
    graph.name = f"{first.output} merged"
    for name in dict.fromkeys(name for node in nodes for name in node.input if name):
        if name in made or name == first.input:
            continue
        if name in known and not editor.weights.known(name):
            graph.initializer.append(known[name])
        elif editor.weights.known(name):
            graph.initializer.append(numpy_helper.from_array(editor.weights.array(name), name))
        else:
            graph.node.append(editor.producers[name])
    graph.node.extend(nodes)
    dtype = editor.weights.tensor(first.nodes[0].input[1]).data_type
    for name, values in ((first.input, graph.input), (second.output, graph.output)):
        shape = editor.shapes.shape(name)
        sizes = None if shape is None else [sample_value(size) for size in shape]
        values.append(helper.make_tensor_value_info(name, dtype, sizes))
    return part
