"""The norm that stays when the sum in front of it goes: what is left of a fused skip-and-norm node."""

from __future__ import annotations

from typing import Any

import numpy as np

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.surgery.repairs import Chain

SKIP_NORM = "SkipLayerNormalization"
SKIP_RMS_NORM = "SkipSimplifiedLayerNormalization"
FUSED_MERGES = (SKIP_NORM, SKIP_RMS_NORM)

NORM_OUTPUT = 0
"""Which output of a fused merge is the normalised sum."""

SUM_OUTPUT = 3
"""Which output of a fused merge is the sum itself."""

DEFAULT_EPSILON = 1e-12


def add_norm(
    chain: Chain, fused: Any, *, epsilon: float, opset: int, known_ops: frozenset[str], dtype: str | None
) -> None:
    """Append the norm of a fused skip-and-norm node, without its sum and the bias in it.

    The bias belongs to the branch: it is the bias of the branch's last linear operator, fused in.
    The standard operator is used where the opset has it, the contributed one where the model already has it, and
    else primitive operators.

    Args:
        chain: Where it goes.
        fused: The fused graphsurgeon node; its third and fourth inputs are scale and shift.
        epsilon: Its epsilon.
        opset: Version of the standard operators.
        known_ops: The model's operator types in the standard domain.
        dtype: Element type, numpy's name; needed where the norm is spelled out.

    Raises:
        InputError: The norm must be spelled out and the element type is unknown.
    """
    scale = fused.inputs[2]
    simplified = fused.op == SKIP_RMS_NORM
    shift = fused.inputs[3] if not simplified and len(fused.inputs) > 3 and fused.inputs[3].name else None
    operands = [scale] if shift is None else [scale, shift]
    if not simplified and (opset >= 17 or "LayerNormalization" in known_ops):
        chain.add("LayerNormalization", *operands, axis=-1, epsilon=epsilon)
    elif simplified and "SimplifiedLayerNormalization" in known_ops:
        chain.add("SimplifiedLayerNormalization", scale, axis=-1, epsilon=epsilon)
    elif simplified and opset >= 23:
        chain.add("RMSNormalization", scale, axis=-1, epsilon=epsilon)
    else:
        _add_primitive_norm(
            chain, operands, centred=not simplified, epsilon=epsilon, opset=opset, dtype=dtype
        )


def _add_primitive_norm(
    chain: Chain, operands: list[Any], *, centred: bool, epsilon: float, opset: int, dtype: str | None
) -> None:
    if dtype is None:
        raise InputError(
            f"The norm after {chain.value.name} must be spelled out, and its element type is unknown."
        )
    if centred:
        source = chain.value
        mean = _reduce_mean(chain, opset)
        chain.value = source
        chain.add("Sub", mean)
    centre = chain.value
    chain.add("Mul", centre)
    _reduce_mean(chain, opset)
    chain.add("Add", chain.constant("epsilon", np.array(epsilon, dtype=dtype)))
    deviation = chain.add("Sqrt")
    chain.value = centre
    chain.add("Div", deviation)
    chain.add("Mul", operands[0])
    if len(operands) > 1:
        chain.add("Add", operands[1])


def _reduce_mean(chain: Chain, opset: int) -> Any:
    if opset >= 18:
        return chain.add("ReduceMean", chain.constant("axes", np.array([-1], np.int64)), keepdims=1)
    return chain.add("ReduceMean", axes=[-1], keepdims=1)
