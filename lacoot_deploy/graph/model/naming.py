"""Which module a node came from, as far as the exporter or the names still tell.

Read in this order, the first that speaks wins:

1. the name scopes of PyTorch's exporter (`pkg.torch.onnx.name_scopes`),
2. scopes in node names as the older PyTorch exporter writes them (`/layer1/layer1.0/conv1/Conv`),
3. scopes in node names as TensorFlow writes them (`model/block1/add`),
4. the names of the node's own weights (`layer1.0.conv1.weight`), which survive tools that drop the rest.

A scope is a tuple of parts from the outside in; the root of the model is the empty tuple, unknown is None.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cached_property

from lacoot_deploy.graph.model.index import GraphIndex, Node

Scope = tuple[str, ...]

NAME_SCOPES = "pkg.torch.onnx.name_scopes"

_WEIGHT = re.compile(r"^[A-Za-z_][\w-]*(\.[\w-]+)+$")
_CALL = re.compile(r"(?<=.)_\d+$")
_FUSION = re.compile(r"^\w*Fusion_(?:[A-Za-z]+_)?[WB]_")
"""What ONNX Runtime puts before the name of a weight that it has merged another into."""


class Scopes:
    """Scopes of the nodes of one graph, worked out when asked for."""

    def __init__(self, graph: GraphIndex) -> None:
        self._graph = graph
        self._said: dict[int, Scope | None] = {}
        self._found: dict[int, Scope | None] = {}
        self._texts: dict[str, Scope | None] = {}
        self._readers: dict[str, int] | None = None
        self._tensorflow: bool | None = None
        self._called: set[Scope] | None = None

    def of(self, node: Node) -> Scope | None:
        """The module that ran the node, or the one whose weights it reads; None where nothing tells."""
        key = id(node.proto)
        if key not in self._found:
            said = self.said(node)
            self._found[key] = said if said is not None else self._from_weights(node)
        return self._found[key]

    @cached_property
    def held(self) -> dict[Scope, list[Node]]:
        """For each module the nodes that it is known to hold, constants aside."""
        found: dict[Scope, list[Node]] = {}
        for node in self._graph.nodes:
            scope = self.of(node)
            if scope and any(name in self._graph.dynamic for name in node.outputs):
                for length in range(1, len(scope) + 1):
                    found.setdefault(scope[:length], []).append(node)
        return found

    def said(self, node: Node) -> Scope | None:
        """The module that ran the node, where the exporter's own record or the node's name says so."""
        key = id(node.proto)
        if key not in self._said:
            self._said[key] = self._find(node)
        return self._said[key]

    def _find(self, node: Node) -> Scope | None:
        for entry in node.proto.metadata_props:
            if entry.key == NAME_SCOPES:
                text = entry.value
                head = text.rpartition(",")[0]
                if head not in self._texts:
                    self._texts[head] = parse_name_scopes(text)
                if self._texts[head] is not None:
                    return self._texts[head]
        name = node.name
        if name.startswith("/"):
            return self._called_once(parse_slashed(name))
        if "/" in name and self._is_tensorflow():
            return tuple(part for part in name.split("/")[:-1] if part)
        return None

    def _called_once(self, scope: Scope) -> Scope:
        """The scope without the `_1`, `_2`, ... that the exporter appends where a module is called again.

        A part is taken for such a call only where its name without the number is there too, and some node of the graph
        has the number in its name and not in that of its weight.
        """
        if self._called is None:
            paths: set[Scope] = set()
            again = False
            for proto in self._graph.graph.node:
                if not proto.name.startswith("/"):
                    continue
                path = parse_slashed(proto.name)
                paths.update(path[:length] for length in range(1, len(path) + 1))
                if not again and path and _CALL.search(path[-1]):
                    plain = ".".join((*path[:-1], _CALL.sub("", path[-1]))) + "."
                    again = any(operand.startswith(plain) for operand in proto.input)
            self._called = paths if again else set()
        if not self._called or not any(_CALL.search(part) for part in scope):
            return scope
        parts: list[str] = []
        for part in scope:
            plain = _CALL.sub("", part)
            parts.append(plain if plain != part and (*parts, plain) in self._called else part)
        return tuple(parts)

    def _is_tensorflow(self) -> bool:
        """Whether most nodes have scoped names; a few come from optimisers that append what they did."""
        if self._tensorflow is None:
            names = [proto.name for proto in self._graph.graph.node if proto.name]
            scoped = sum("/" in name and not name.startswith("/") for name in names)
            self._tensorflow = 2 * scoped > len(names)
        return self._tensorflow

    def _from_weights(self, node: Node) -> Scope | None:
        if self._readers is None:
            # Tools keep one of several equal tensors, under one of their names: a shared weight says nothing.
            self._readers = {}
            for proto in self._graph.graph.node:
                for name in set(proto.input):
                    self._readers[name] = self._readers.get(name, 0) + 1
        named = (
            name
            for name in (node.proto.input if node.fused else node.inputs)
            if name in self._graph.initializers and _WEIGHT.match(name)
        )
        alone = next((name for name in named if self._readers.get(name) == 1), None)
        return None if alone is None else tuple(_FUSION.sub("", alone).split(".")[:-1])


def parse_name_scopes(text: str) -> Scope | None:
    """Scope from PyTorch's list of nested module paths, the last entry of which is the operation itself."""
    try:
        parts = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        # The last two are what Python's parser makes of text that is nested without end.
        return None
    if not isinstance(parts, list) or len(parts) < 2 or not all(isinstance(part, str) for part in parts):
        return None
    return tuple(part for part in parts[-2].split(".") if part)


def parse_slashed(name: str) -> Scope:
    """Scope from `/layer1/layer1.0/conv1/Conv`: each part is a child, or its container's path with an index."""
    path: list[str] = []
    last = ""
    for part in name.split("/")[1:-1]:
        if last and part.startswith(last + "."):
            path.extend(part[len(last) + 1 :].split("."))
        else:
            path.extend(part.split("."))
        last = part
    return tuple(path)


def common(scopes: Iterable[Scope | None]) -> Scope | None:
    """The innermost scope that holds all the known ones; None where none is known."""
    result: Scope | None = None
    for scope in scopes:
        if scope is None:
            continue
        if result is None:
            result = scope
            continue
        length = 0
        for a, b in zip(result, scope, strict=False):
            if a != b:
                break
            length += 1
        result = result[:length]
    return result


def inside(scope: Scope | None, outer: Scope | None) -> bool:
    """Whether a scope is the outer one or within it; unknown scopes are in none."""
    return scope is not None and outer is not None and scope[: len(outer)] == outer


def join(scope: Scope) -> str:
    """A scope as text, the way PyTorch writes module paths."""
    return ".".join(scope)


class Names:
    """Hands out unique names; equal wishes get `_2`, `_3`, ... in the order in which they come."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wish: str) -> str:
        """The wish itself where it is still free, else the first free numbered form."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name
