"""Shape and element type of values, as tables: what is known of each, and whether two are equal."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx

from lacoot_deploy.graph.model.blocks import Shape


class ShapeTable:
    """Shape and element type of the values of one graph and of the graphs around it."""

    def __init__(
        self, shapes: dict[str, Shape], dtypes: dict[str, int], parent: ShapeTable | None = None
    ) -> None:
        self._shapes = shapes
        self._dtypes = dtypes
        self._parent = parent

    def __contains__(self, name: object) -> bool:
        return name in self._shapes and name in self._dtypes

    def shape(self, name: str) -> Shape | None:
        """The shape as far as known; None where not even the rank is."""
        table: ShapeTable | None = self
        while table is not None:
            if name in table._shapes:
                return table._shapes[name]
            table = table._parent
        return None

    def dtype(self, name: str) -> str | None:
        """Numpy's name of the element type; None where unknown."""
        table: ShapeTable | None = self
        while table is not None:
            if name in table._dtypes:
                return dtype_name(table._dtypes[name])
            table = table._parent
        return None


def same_shape(a: Shape | None, b: Shape | None) -> bool | None:
    """Whether two shapes are equal: True and False are proven, None is undecided.

    A symbol equals itself and nothing else provably; two different symbols may still be equal at run time.
    """
    if a is None or b is None:
        return None
    if len(a) != len(b):
        return False
    verdict: bool | None = True
    for left, right in zip(a, b, strict=True):
        if isinstance(left, int) and isinstance(right, int):
            if left != right:
                return False
        elif left is None or right is None or left != right:
            verdict = None
    return verdict


@lru_cache(maxsize=64)
def dtype_name(elem_type: int) -> str | None:
    """Numpy's name of an ONNX element type; None where it has no type, or one that ONNX does not define."""
    if elem_type == onnx.TensorProto.UNDEFINED or elem_type not in onnx.TensorProto.DataType.values():
        return None
    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name)
    except (KeyError, TypeError):
        return str(onnx.TensorProto.DataType.Name(elem_type)).lower()
