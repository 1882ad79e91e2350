"""External weights of one file, mapped once and shared by every session of a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from lacoot_deploy.graph.model.external import map_external, stored_bytes

HUGE_BYTES = 1 << 27
"""From here on sessions keep no copies of the weights in the layout that products like best."""

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


class SharedWeights:
    """The external initializers of a model as maps of their file, for sessions of it, of its parts and of cuts of it.

    The arrays must live as long as the sessions, so whoever opens those keeps this object.

    Args:
        model: The model.
        source: The file it was loaded from; None where its weights are in it.
    """

    def __init__(self, model: onnx.ModelProto, source: Path | None) -> None:
        self._source = source
        self._sizes: dict[str, int] = {}
        self._places: dict[str, tuple[tuple[str, str], ...] | None] = {}
        self._values: dict[str, Any] = {}
        total = 0
        for tensor in model.graph.initializer if source is not None else ():
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                total += stored_bytes(tensor) or 0
                if tensor.data_type in SHAREABLE:
                    self._places[tensor.name] = _place(tensor)
        self._huge = total >= HUGE_BYTES

    def configure(self, model: onnx.ModelProto, options: Any) -> None:
        """Give the options of a session of a model the arrays of those initializers that are still where they were."""
        if self._huge:
            options.add_session_config_entry("session.disable_prepacking", "1")
        for tensor in model.graph.initializer:
            if tensor.name not in self._places or self._places[tensor.name] != _place(tensor):
                continue
            value = self._value(tensor)
            if value is not None:
                options.add_initializer(tensor.name, value)

    def _value(self, tensor: onnx.TensorProto) -> Any:
        if tensor.name not in self._values:
            import onnxruntime

            assert self._source is not None, "only then a place is known"
            array = map_external(tensor, self._source, sizes=self._sizes)
            make = onnxruntime.OrtValue.ortvalue_from_numpy
            self._values[tensor.name] = None if array is None else make(array)
        return self._values[tensor.name]


def _place(tensor: onnx.TensorProto) -> tuple[tuple[str, str], ...] | None:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    return tuple((entry.key, entry.value) for entry in tensor.external_data)
