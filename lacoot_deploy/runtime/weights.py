"""The weights of one model, read once and shared by every session of a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from lacoot_deploy.graph.model.external import map_external, stored_bytes

INLINE_BYTES = 1024
"""Smaller weights are put into every part: shapes and bounds among them are folded when it is loaded."""

HUGE_BYTES = 1 << 29
"""From here on sessions do not keep copies of the weights in the layout that products like best."""


class SharedWeights:
    """Arrays of a model's initializers that ONNX Runtime reads where they lie.

    Those in external data are mapped from the file, not read. A session gets stubs in its model and, with `share`, the
    arrays themselves; they must live as long as it does, so whoever opens sessions keeps this object.

    Args:
        model: The model.
        source: The file it was loaded from; needed where its weights are external.

    Attributes:
        huge: Whether copies of them would not be worth what they take.
    """

    def __init__(self, model: onnx.ModelProto, source: Path | None) -> None:
        self._source = source
        self._sizes: dict[str, int] = {}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._shared: dict[str, tuple[onnx.TensorProto, Any] | None] = {}
        self.huge = sum(map(_size, self._tensors.values())) >= HUGE_BYTES

    def stubs(self, names: tuple[str, ...]) -> tuple[dict[str, onnx.TensorProto], dict[str, Any]]:
        """What stands for initializers in a part's model, and the values of those that are shared."""
        tensors: dict[str, onnx.TensorProto] = {}
        values: dict[str, Any] = {}
        for name in names:
            if name not in self._tensors:
                continue
            shared = self._share(name)
            tensors[name] = self._tensors[name] if shared is None else shared[0]
            if shared is not None:
                values[name] = shared[1]
        return tensors, values

    def _share(self, name: str) -> tuple[onnx.TensorProto, Any] | None:
        if name not in self._shared:
            self._shared[name] = self._make(self._tensors[name])
        return self._shared[name]

    def _make(self, tensor: onnx.TensorProto) -> tuple[onnx.TensorProto, Any] | None:
        import onnxruntime

        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if tensor.data_type not in SHAREABLE or (not external and _size(tensor) < INLINE_BYTES):
            return None
        array = self._mapped(tensor) if external else numpy_helper.to_array(tensor)
        if array is None:
            return None
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        stub = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = onnx.TensorProto.EXTERNAL
        stub.external_data.add(key="location", value="shared")
        return stub, value

    def _mapped(self, tensor: onnx.TensorProto) -> Any:
        """An external tensor as a map of its file; None where that cannot be done, and ONNX Runtime shall read it."""
        return None if self._source is None else map_external(tensor, self._source, sizes=self._sizes)


SHAREABLE = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT32,
        onnx.TensorProto.INT64,
    }
)
"""Element types that NumPy arrays can hand over."""


def share(options: Any, values: Mapping[str, Any]) -> None:
    """Give values to the options of a session whose model holds their stubs."""
    if values:
        options.add_external_initializers(list(values), list(values.values()))


def _size(tensor: onnx.TensorProto) -> int:
    return stored_bytes(tensor) or 0
