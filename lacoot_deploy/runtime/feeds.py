"""What goes into a model: its inputs, generated feeds that respect types and ranges, and checks of real data."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.data.types import InputInfo
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.machine import describe_machine

if TYPE_CHECKING:
    import onnx

_IMAGE_SIDE = 224
_SEQUENCE = 16
_TOKENS = 100
_NUMBERS = re.compile(r"bool|float(16|32|64)|u?int(8|16|32|64)")
_PASS_THROUGH = {"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Clip", "Transpose"}


class HasInputs(Protocol):
    """Whatever knows the inputs that must be fed to it, such as a session."""

    @property
    def inputs(self) -> tuple[InputInfo, ...]:
        """The inputs, in order."""


def model_inputs(model: HasInputs | onnx.ModelProto) -> tuple[InputInfo, ...]:
    """The inputs that must be fed, of a session or a model (initializers that are also inputs are left out)."""
    inputs = getattr(model, "inputs", None)
    if isinstance(inputs, tuple):
        return inputs
    return _proto_inputs(model)  # type: ignore[arg-type]


def _proto_inputs(model: onnx.ModelProto) -> tuple[InputInfo, ...]:
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    infos = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise InputError(
                f"Input {value.name!r} is a {kind or 'value of no type'}; only tensors can be fed."
            )
        tensor = value.type.tensor_type
        shape = tuple(
            d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None
            for d in tensor.shape.dim
        )
        dtype = (
            "str"
            if tensor.elem_type == onnx.TensorProto.STRING
            else "bfloat16"
            if tensor.elem_type == onnx.TensorProto.BFLOAT16
            else _numpy_name(value.name, tensor.elem_type)
        )
        infos.append(InputInfo(name=value.name, shape=shape, dtype=dtype))
    return tuple(infos)


def _numpy_name(name: str, elem_type: int) -> str:
    import onnx

    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name)
    except (KeyError, TypeError):
        raise InputError(f"Input {name!r} is of element type {elem_type}, which cannot be fed.") from None


def index_limits(model: onnx.ModelProto) -> dict[str, int]:
    """For each input that indexes a table of weights: the number of the table's rows, so that ids stay in range."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    sizes[node.output[0]] = tuple(attribute.t.dims)
    origin = {value.name: value.name for value in model.graph.input if value.name not in sizes}
    limits: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _PASS_THROUGH and node.input and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        if node.op_type != "Gather" or len(node.input) < 2:
            continue
        table, indices = node.input[0], node.input[1]
        if table in sizes and indices in origin and sizes[table]:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            rows = sizes[table][axis]
            name = origin[indices]
            limits[name] = min(rows, limits.get(name, rows))
    return limits


def resolve_shapes(
    inputs: Sequence[InputInfo], *, batch: int | None = None, dims: Mapping[str, int] | None = None
) -> dict[str, tuple[int, ...]]:
    """A number for every free dimension of every input.

    A dimension whose name is a sum or a product of others, as `past + new`, is computed from them.

    Args:
        inputs: The model's inputs.
        batch: Size of free first axes; None for 1. A fixed first axis of another size is an error.
        dims: Sizes of free dimensions by symbolic name, or `INPUT:AXIS` for one without a name; 0 for an empty past.

    Raises:
        InputError: The batch contradicts a fixed first axis.
        UsageError: A name in `dims` is not a free dimension of the model, or a size is negative.
    """
    chosen = dict(dims or {})
    for name, size in chosen.items():
        if size < 0:
            raise UsageError(f"Dimension {name!r} must be at least 0, not {size}.")
    if batch is not None and batch < 1:
        raise UsageError(f"The batch must be at least 1, not {batch}.")
    used: set[str] = set()
    free: set[str] = set()
    sizes: dict[str, int] = {}
    for info, axis, dim, key in _free_dimensions(inputs, batch):
        free |= {key, dim} if dim else {key}
        by = key if key in chosen else dim if dim in chosen else None
        if by is not None:
            used.add(by)
            sizes[key] = chosen[by]
        else:
            sizes[key] = (batch or 1) if axis == 0 else _default_size(info, axis, dim)
    _compute_sums(inputs, sizes, chosen)
    unknown = sorted(set(chosen) - used)
    if unknown:
        names = ", ".join(sorted(free)) or "none"
        raise UsageError(f"The model has no free dimension {unknown[0]!r}; its free dimensions are: {names}.")
    return {
        info.name: tuple(
            dim if isinstance(dim, int) else sizes[f"{info.name}:{axis}"]
            for axis, dim in enumerate(info.shape)
        )
        for info in inputs
    }


def _free_dimensions(
    inputs: Sequence[InputInfo], batch: int | None
) -> Iterator[tuple[InputInfo, int, str | None, str]]:
    """Every free dimension as (input, axis, name, key)."""
    for info in inputs:
        for axis, dim in enumerate(info.shape):
            if not isinstance(dim, int):
                yield info, axis, dim, f"{info.name}:{axis}"
            elif axis == 0 and batch is not None and len(info.shape) > 1 and dim not in (batch, 0):
                raise InputError(
                    f"Input {info.name!r} has its first dimension fixed to {dim}, so a batch of {batch} does not "
                    f"fit; export the model with a free batch dimension."
                )


def _compute_sums(inputs: Sequence[InputInfo], sizes: dict[str, int], chosen: Mapping[str, int]) -> None:
    """Give dimensions that are named after others, and were not chosen, the size that follows from those."""
    free, sums = list(_free_dimensions(inputs, None)), dependent_sizes(inputs)
    known = {dim: sizes[key] for _, _, dim, key in free if dim and dim not in sums}
    for _, _, dim, key in free:
        if dim in sums and key not in chosen and dim not in chosen:
            value = evaluate(sums[dim], known)
            if value is not None:
                sizes[key] = value


def dependent_sizes(inputs: Sequence[InputInfo]) -> dict[str, str]:
    """Names of free dimensions that follow from others, each with the sum or product that it is.

    A name can say so itself (`past + new`). And what a decoder attends to, the second axis of its attention mask, is
    what its cache holds and the new tokens together, whatever it is called.
    """
    names = {dim for _, _, dim, _ in _free_dimensions(inputs, None) if dim}
    found = {name: name for name in names if not name.isidentifier()}
    second: dict[str, str] = {}
    for info in inputs:
        dim = info.shape[1] if len(info.shape) == 2 else None
        if isinstance(dim, str) and dim.isidentifier():
            second[info.name] = dim
    caches = (dim for info in inputs if "past" in info.name for dim in info.shape[1:] if isinstance(dim, str))
    past, new = next(caches, None), second.get("input_ids")
    total = second.get("attention_mask")
    if total and past and new and past.isidentifier() and total not in (past, new):
        found[total] = f"{past} + {new}"
    return found


_SIGNS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def evaluate(expression: str, known: Mapping[str, int]) -> int | None:
    """The value of a dimension's name that is a sum, difference, product or whole quotient of names and numbers.

    Args:
        expression: The name, such as `past_length + length`.
        known: Sizes by name.

    Returns:
        The value; None where it is no such expression, a name is not known, or the value is negative.
    """

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name):
            return known[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
            return _SIGNS[type(node.op)](value(node.left), value(node.right))
        raise ValueError

    try:
        found = value(ast.parse(expression.strip()[:200], mode="eval").body)
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return found if found >= 0 else None


def sizes_of(inputs: Sequence[InputInfo], feeds: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """The sizes of a model's free dimensions in arrays for it, by `INPUT:AXIS`."""
    return {
        f"{info.name}:{axis}": feeds[info.name].shape[axis]
        for info in inputs
        if info.name in feeds and feeds[info.name].ndim == len(info.shape)
        for axis, dim in enumerate(info.shape)
        if not isinstance(dim, int)
    }


def generate_feeds(
    inputs: Sequence[InputInfo],
    *,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
) -> dict[str, NDArray[Any]]:
    """Plausible input for a model: normal floats, ids in range, masks of ones, positions counted up.

    Args:
        inputs: The model's inputs.
        batch: As for `resolve_shapes`.
        dims: As for `resolve_shapes`.
        seed: Seed of the random values; the same seed gives the same feeds.
        limits: For inputs that index a table: the number of its rows (see `index_limits`).

    Raises:
        InputError: An input's type cannot be generated, or the batch does not fit.
        UsageError: As for `resolve_shapes`.
    """
    shapes = resolve_shapes(inputs, batch=batch, dims=dims)
    rng = np.random.default_rng(seed)
    return {
        info.name: _values(info, shapes[info.name], rng, (limits or {}).get(info.name)) for info in inputs
    }


def check_size(
    inputs: Sequence[InputInfo],
    *,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    what: str = "The model",
) -> None:
    """Refuse inputs that could not be generated in the memory there is, before the system runs out of it.

    Raises:
        InputError: Naming what the inputs take and what there is.
        UsageError: As for `resolve_shapes`.
    """
    shapes = resolve_shapes(inputs, batch=batch, dims=dims)
    sizes = {info.name: 8 if info.dtype == "str" else _item_size(info.dtype) for info in inputs}
    wanted = sum(math.prod(shape) * sizes[name] for name, shape in shapes.items())
    there = describe_machine().memory_available_bytes
    if there is not None and wanted > there:
        raise InputError(
            f"The inputs of {what} would take {wanted / 2**30:.3g} GiB of memory, but {there / 2**30:.3g} GiB are "
            f"free; use a smaller batch or input."
        )


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize if _NUMBERS.fullmatch(dtype) else 1


def check_feeds(
    inputs: Sequence[InputInfo], feeds: Mapping[str, NDArray[Any]], *, what: str = "The model"
) -> None:
    """Hold arrays to a model's inputs: every input there, no other, types and fixed dimensions as declared.

    Raises:
        InputError: Naming the input, what it expects and what it got.
    """
    names = [info.name for info in inputs]
    for name in feeds:
        if name not in names:
            raise InputError(f"{what} has no input {name!r}; its inputs are {', '.join(names) or 'none'}.")
    sizes: dict[str, tuple[int, str]] = {}
    for info in inputs:
        if info.name not in feeds:
            raise InputError(f"{what} needs the input {info.name!r}, which the data does not have.")
        array = feeds[info.name]
        got = "str" if array.dtype.kind in "USO" else array.dtype.name
        if got != info.dtype and not (info.dtype == "bfloat16" and got in ("uint16", "bfloat16")):
            raise InputError(f"Input {info.name!r} of {what} expects {info.dtype}, got {got}.")
        # ONNX Runtime gives () both for a scalar and for an input whose rank is not declared.
        if not info.shape:
            continue
        fits = len(info.shape) == array.ndim and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(info.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"Input {info.name!r} of {what} expects shape {shape_text(info.shape)}, got {list(array.shape)}."
            )
        for dim, size in zip(info.shape, array.shape, strict=True):
            if isinstance(dim, str) and dim:
                seen = sizes.setdefault(dim, (size, info.name))
                if seen[0] != size:
                    raise InputError(
                        f"Dimension {dim!r} of {what} is {seen[0]} in input {seen[1]!r} but {size} in {info.name!r}."
                    )


def shape_text(shape: Sequence[int | str | None]) -> str:
    """A shape as messages print it, free dimensions by name or `?`."""
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"


def _default_size(info: InputInfo, axis: int, name: str | None) -> int:
    lower = (name or "").lower()
    if re.search(r"batch", lower):
        return 1
    if re.search(r"height|width|^[hw]$|image", lower):
        return _IMAGE_SIDE
    if len(info.shape) == 4 and info.dtype in ("float32", "float16", "float64", "uint8"):
        channels_first = info.shape[1] in (1, 3, 4) and axis in (2, 3)
        channels_last = info.shape[3] in (1, 3, 4) and axis in (1, 2)
        if channels_first or channels_last:
            return _IMAGE_SIDE
        if axis == 1 and info.shape[2:] != (1, 3):
            return 3
    return _SEQUENCE


def _values(
    info: InputInfo, shape: tuple[int, ...], rng: np.random.Generator, limit: int | None
) -> NDArray[Any]:
    name = info.name.lower()
    is_mask = "mask" in name
    if info.dtype == "str":
        return np.full(shape, "a", dtype=object)
    if info.dtype == "bool":
        return np.ones(shape, dtype=bool) if is_mask else rng.integers(0, 2, shape).astype(bool)
    if info.dtype in ("float16", "float32", "float64"):
        wide = np.float64 if info.dtype == "float64" else np.float32
        values = np.ones(shape, wide) if is_mask else rng.standard_normal(shape, wide)
        return values.astype(info.dtype, copy=False)
    if not re.fullmatch(r"u?int(8|16|32|64)", info.dtype):
        raise InputError(
            f"Input {info.name!r} is of type {info.dtype}, for which no values can be generated; give data."
        )
    dtype = np.dtype(info.dtype)
    if is_mask:
        return np.ones(shape, dtype=dtype)
    if "position" in name and shape:
        positions = np.arange(shape[-1]) if limit is None else np.arange(shape[-1]) % limit
        return np.broadcast_to(positions, shape).astype(dtype)
    if limit is not None:
        return rng.integers(0, max(1, limit), shape).astype(dtype)
    if "type" in name or "segment" in name:
        return np.zeros(shape, dtype=dtype)
    if "length" in name or re.search(r"(^|_)lens?$", name):
        return np.full(shape, _SEQUENCE, dtype=dtype)
    if re.search(r"ids?$|token", name):
        return rng.integers(0, min(_TOKENS, int(np.iinfo(dtype).max)), shape).astype(dtype)
    if len(shape) >= 3 and dtype.itemsize == 1:
        low, high = (0, 256) if dtype.kind == "u" else (-128, 128)
        return rng.integers(low, high, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
