"""Shapes that inference leaves open, settled by running the model on generated input of two sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lacoot_deploy.data.types import InputInfo
from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.blocks import Dim, Shape
from lacoot_deploy.runtime.exposed import ExposedSession
from lacoot_deploy.runtime.feeds import (
    dependent_sizes,
    generate_feeds,
    index_limits,
    model_inputs,
    resolve_shapes,
)
from lacoot_deploy.runtime.options import Runtime

if TYPE_CHECKING:
    import onnx

CPU = Runtime("cpu")


def probe_shapes(
    model: onnx.ModelProto,
    names: Sequence[str],
    *,
    source: Path | None = None,
    runtime: Runtime = CPU,
    seed: int = 0,
) -> dict[str, Shape]:
    """The shapes that values of the main graph take.

    The model is run twice, with every free input dimension of another size the second time. A dimension that stays is
    a number; one that follows a free input dimension gets its name (`INPUT:AXIS` where it has none); any other that
    changes gets a name made from its two sizes, so that equal names mean equal in both runs. Where the model does not
    run at the second size, the sizes of the one run are given.

    Args:
        model: The model.
        names: The values wanted; those that are no arrays are left out.
        source: Where a model with external data was read from.
        runtime: Where it runs.
        seed: Seed of the generated input.

    Raises:
        InputError: The model does not load or run on generated input, or a value does not exist.
    """
    if not names:
        return {}
    inputs = model_inputs(model)
    session = ExposedSession(model, list(names), runtime=runtime, source=source)
    limits = index_limits(model)
    first, second = _sizes(inputs)

    def run(dims: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        values = session.run(generate_feeds(inputs, dims=dims, seed=seed, limits=limits))
        return {name: value.shape for name, value in values.items() if isinstance(value, np.ndarray)}

    shapes = run(first)
    try:
        changed = run(second) if second != first else shapes
    except InputError:
        return dict(shapes)
    symbols = {(first[name], second[name]): name for name in first}
    return {
        name: tuple(_dim(a, b, symbols) for a, b in zip(shape, changed.get(name, shape), strict=False))
        for name, shape in shapes.items()
        if len(changed.get(name, shape)) == len(shape)
    }


def _dim(first: int, second: int, symbols: Mapping[tuple[int, int], str]) -> Dim:
    if first == second:
        return first
    return symbols.get((first, second), f"probed_{first}_{second}")


def _sizes(inputs: Sequence[InputInfo]) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of all free dimensions for the two runs; no two dimensions change in the same way."""
    shapes, sums = resolve_shapes(inputs), dependent_sizes(inputs)
    first: dict[str, int] = {}
    second: dict[str, int] = {}
    for info in inputs:
        for axis, dim in enumerate(info.shape):
            if isinstance(dim, int):
                continue
            key = dim or f"{info.name}:{axis}"
            if key in first or key in sums:
                continue
            size = shapes[info.name][axis]
            rank = len(first) + 1
            # Networks that halve their input again and again want sides that are multiples of 32.
            first[key] = size if size >= 32 else size + rank
            second[key] = first[key] + (32 * rank if size >= 32 else rank)
    return first, second
