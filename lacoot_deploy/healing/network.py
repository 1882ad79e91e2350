"""A file as healing works with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from lacoot_deploy.errors import InputError
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.healing.flat import FlatGraph, flatten
from lacoot_deploy.healing.weights import quantised


@dataclass(frozen=True)
class Network:
    """A file as it is worked with.

    Attributes:
        path: The file.
        model: Its model, external data not loaded.
        graph: Its main graph, flat.
    """

    path: Path
    model: onnx.ModelProto
    graph: FlatGraph

    @classmethod
    def read(cls, path: str | Path) -> Network:
        """Read a file.

        Raises:
            InputError: It is missing, malformed, or quantised.
        """
        path = Path(path)
        model = load_model(path)
        graph = flatten(model, path.parent)
        kind = quantised(graph)
        if kind is not None:
            raise InputError(
                f"{path} is quantised (it holds {kind}): heal the network first, then quantise it."
            )
        return cls(path, model, graph)
