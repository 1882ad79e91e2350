"""What a file notes of its inner values, held against what follows from its operators."""

from __future__ import annotations

import onnx

from lacoot_deploy.graph.model.skeleton import skeleton


def false_notes(model: onnx.ModelProto) -> set[str]:
    """Names of the values of the main graph whose noted type or shape is not what inference gives.

    Tools that edit a graph and do not renew its notes leave such behind; ONNX Runtime warns of some and refuses
    others. Large weights are not read.
    """
    if not model.graph.value_info:
        return set()
    inferred = infer(skeleton(model, notes=False))
    if inferred is None:
        return set()
    known = {value.name: value.type.tensor_type for value in inferred.graph.value_info}
    return {
        note.name
        for note in model.graph.value_info
        if note.name in known and _contradicts(note.type, known[note.name])
    }


def drop_false_notes(model: onnx.ModelProto) -> None:
    """Delete, in place, what a model notes of inner values and inference says otherwise."""
    wrong = false_notes(model)
    notes = model.graph.value_info
    for place in range(len(notes) - 1, -1, -1):
        if notes[place].name in wrong:
            del notes[place]


def infer(bare: onnx.ModelProto) -> onnx.ModelProto | None:
    """ONNX's inference on a model without weights; None where it refuses the model as a whole."""
    try:
        return onnx.shape_inference.infer_shapes(bare, check_type=False, strict_mode=False, data_prop=True)
    except Exception:  # the C++ side raises several unrelated types; symbolic propagation goes on without it
        return None


def _contradicts(noted: onnx.TypeProto, found: onnx.TypeProto.Tensor) -> bool:
    if noted.WhichOneof("value") != "tensor_type":
        return False
    tensor = noted.tensor_type
    if tensor.elem_type and found.elem_type and tensor.elem_type != found.elem_type:
        return True
    if not (tensor.HasField("shape") and found.HasField("shape")):
        return False
    pairs = list(zip(tensor.shape.dim, found.shape.dim, strict=False))
    return len(tensor.shape.dim) != len(found.shape.dim) or any(
        a.HasField("dim_value") and b.HasField("dim_value") and a.dim_value > 0 and a.dim_value != b.dim_value
        for a, b in pairs
    )
