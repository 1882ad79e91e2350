"""Turns a repair into onnx-graphsurgeon nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Shape
from lacoot_deploy.graph.surgery.cuts import Repair

# 1/sqrt(var + epsilon) must be exactly 1. An epsilon of 0 would do on the CPU, but some backends refuse or clamp it;
# this pair sums to exactly 1 in every float type down to half precision.
NORM_EPSILON = 2.0**-10
NORM_VARIANCE = 1.0 - NORM_EPSILON

FLOAT_TYPES = ("float16", "bfloat16", "float32", "float64")
MIN_REPAIR_OPSET = 7


class Chain:
    """Nodes that read one value and are built one after the other; every name starts with the block's.

    Attributes:
        nodes: The nodes so far, in order.
        value: The tensor that the last of them gives.

    Args:
        start: The tensor that the first node reads.
        prefix: What names start with.
        taken: Gives the names that are taken; new ones are added to it.
        initializers: Whether a new weight may be an initializer.
    """

    def __init__(self, start: Any, *, prefix: str, taken: Callable[[], set[str]], initializers: bool = True):
        self.nodes: list[Any] = []
        self.value = start
        self._prefix = prefix
        self._taken = taken
        self._initializers = initializers

    def name(self, wish: str) -> str:
        """A name that nothing in the model has."""
        base = f"{self._prefix}/{wish}"
        name, number = base, 1
        while name in self._taken():
            name, number = f"{base}_{number}", number + 1
        self._taken().add(name)
        return name

    def constant(self, wish: str, values: NDArray[Any]) -> Any:
        """A new initializer, or a `Constant` node where an initializer would have to be a public input as well."""
        import onnx_graphsurgeon as gs

        tensor = gs.Constant(self.name(wish), np.ascontiguousarray(values))
        if self._initializers:
            return tensor
        output = gs.Variable(tensor.name)
        self.nodes.append(gs.Node("Constant", name=tensor.name, attrs={"value": tensor}, outputs=[output]))
        return output

    def add(self, op: str, *others: Any, **attributes: Any) -> Any:
        """Append a node that reads the current value first, then `others`; gives its output."""
        import onnx_graphsurgeon as gs

        output = gs.Variable(self.name(f"{op}_output"))
        inputs = [self.value, *others]
        self.nodes.append(gs.Node(op, name=self.name(op), attrs=attributes, inputs=inputs, outputs=[output]))
        self.value = output
        return output

    def end_in(self, tensor: Any) -> None:
        """Let the last node give an existing tensor instead of a new one."""
        self._taken().discard(self.value.name)
        self.nodes[-1].outputs = [tensor]
        self.value = tensor


def add_repair(chain: Chain, repair: Repair, *, shape: Shape | None, dtype: str | None, opset: int) -> None:
    """Append a repair to a chain.

    Args:
        chain: Where it goes.
        repair: The map.
        shape: Shape of the value, of which the rank and the channels matter; None where unknown.
        dtype: Element type of the value, numpy's name.
        opset: Version of the standard operators.

    Raises:
        InputError: The map does not fit the value: rank, channels, element type or range.
    """
    where = chain.value.name
    if shape is None or dtype is None:
        raise InputError(
            f"A repair needs the rank and element type of {where}, and the model does not tell them."
        )
    if dtype not in FLOAT_TYPES:
        raise InputError(f"A repair needs a floating-point value, and {where} is {dtype}.")
    if opset < MIN_REPAIR_OPSET:
        raise InputError(
            f"A repair needs opset {MIN_REPAIR_OPSET} or newer, and the model has opset {opset}."
        )
    rank = len(shape)
    if not 0 <= repair.axis < rank:
        raise InputError(
            f"The repair's channel axis {repair.axis} does not exist in {where}, which has rank {rank}."
        )
    shift = _in_type(repair.shift, dtype, where)
    if shift.ndim != 1:
        raise InputError(
            f"The repair for {where} has a shift of shape {list(shift.shape)}; it must be [channels]."
        )
    channels = shape[repair.axis]
    if isinstance(channels, int) and channels != len(shift):
        raise InputError(f"The repair is for {len(shift)} channels, and {where} has {channels} channels.")
    if repair.matrix is not None:
        _add_linear(chain, _in_type(repair.matrix, dtype, where), shift, axis=repair.axis, rank=rank)
    elif repair.scale is not None:
        _add_affine(chain, _in_type(repair.scale, dtype, where), shift, axis=repair.axis, rank=rank)
    else:
        raise InputError(f"The repair for {where} has neither a scale nor a matrix.")


def _add_affine(chain: Chain, scale: NDArray[Any], shift: NDArray[Any], *, axis: int, rank: int) -> None:
    if scale.shape != shift.shape:
        raise InputError(
            f"The repair for {chain.value.name} has a scale of shape {list(scale.shape)} "
            f"and a shift of shape {list(shift.shape)}; they must be equal."
        )
    if axis == 1 and rank >= 3 and scale.dtype.name != "bfloat16":
        chain.add(
            "BatchNormalization",
            chain.constant("scale", scale),
            chain.constant("shift", shift),
            chain.constant("mean", np.zeros_like(shift)),
            chain.constant("variance", np.full_like(shift, NORM_VARIANCE)),
            epsilon=NORM_EPSILON,
        )
        return
    broadcast = (-1, *([1] * (rank - 1 - axis)))
    chain.add("Mul", chain.constant("scale", scale.reshape(broadcast)))
    chain.add("Add", chain.constant("shift", shift.reshape(broadcast)))


def _add_linear(chain: Chain, matrix: NDArray[Any], shift: NDArray[Any], *, axis: int, rank: int) -> None:
    channels = len(shift)
    if matrix.shape != (channels, channels):
        raise InputError(
            f"The repair for {chain.value.name} has a matrix of shape {list(matrix.shape)} "
            f"and a shift of {channels} channels; the matrix must be square and match."
        )
    # ONNX Runtime has no double-precision convolution on the CPU.
    if axis == 1 and rank in (3, 4, 5) and matrix.dtype != np.float64:
        weight = matrix.reshape(channels, channels, *([1] * (rank - 2)))
        chain.add(
            "Conv",
            chain.constant("weight", weight),
            chain.constant("bias", shift),
            kernel_shape=[1] * (rank - 2),
        )
        return
    last = rank - 1
    order = [*(i for i in range(rank) if i != axis), axis]
    if axis != last:
        chain.add("Transpose", perm=order)
    chain.add("MatMul", chain.constant("weight", matrix.T))
    chain.add("Add", chain.constant("bias", shift))
    if axis != last:
        chain.add("Transpose", perm=[order.index(i) for i in range(rank)])


def _in_type(values: NDArray[Any], dtype: str, where: str) -> NDArray[Any]:
    """The values in the type of the activations; those it cannot hold are refused, not clipped."""
    wanted: Any = np.dtype(dtype) if dtype != "bfloat16" else _bfloat16()
    exact = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        cast = exact.astype(wanted)
    if not np.isfinite(cast.astype(np.float64)).all():
        worst = float(np.abs(exact).max()) if np.isfinite(exact).all() else float("nan")
        raise InputError(
            f"The repair for {where} holds values (up to {worst:.3g}) that {dtype} cannot represent."
        )
    return cast


def _bfloat16() -> Any:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
