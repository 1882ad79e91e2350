"""Models cut off behind a value, and profiles credited to the nodes they came from."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lacoot_deploy.errors import InputError

if TYPE_CHECKING:
    import onnx

_SUFFIX = "_kernel_time"


def prefix(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """The part of a model that computes the given values of the main graph, which become its only outputs."""
    import onnx

    from lacoot_deploy.graph.model.walk import node_reads

    graph = model.graph
    producer = {output: node for node in graph.node for output in node.output if output}
    needed: set[int] = set()
    pending = list(values)
    while pending:
        node = producer.get(pending.pop())
        if node is None or id(node) in needed:
            continue
        needed.add(id(node))
        pending += node_reads(node)
    typed = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    kept = [node for node in graph.node if id(node) in needed]
    del cut.graph.node[:]
    cut.graph.node.extend(kept)
    del cut.graph.output[:]
    cut.graph.output.extend(typed.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(values))
    used = {name for node in kept for name in node_reads(node)} | set(values)
    weights = [tensor for tensor in cut.graph.initializer if tensor.name in used]
    del cut.graph.initializer[:]
    cut.graph.initializer.extend(weights)
    return cut


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model whose node i of the main graph is called `lacoot<i>.`."""
    import onnx

    named = onnx.ModelProto()
    named.CopyFrom(model)
    for index, node in enumerate(named.graph.node):
        node.name = f"lacoot{index}."
    return named


def node_owners(model: onnx.ModelProto, blocks: Mapping[str, Sequence[str]]) -> dict[int, str]:
    """The block that each node of the main graph belongs to, by node index.

    Args:
        model: The model.
        blocks: For each block the names of its nodes, those without a name as `OpType:output`.
    """
    index: dict[str, int] = {}
    for i, node in enumerate(model.graph.node):
        index.setdefault(node.name or f"{node.op_type}:{node.output[0] if node.output else ''}", i)
    return {index[node]: name for name, nodes in blocks.items() for node in nodes if node in index}


def read_profile(
    path: Path, model: onnx.ModelProto, owners: Mapping[int, str], runs: int
) -> dict[str | None, float]:
    """Seconds by block (None: in no block) of an undisturbed run, from a profile that ONNX Runtime wrote.

    ONNX Runtime calls what it fuses after a node or a value of what it was fused from, with a suffix. What it inserts
    has a name of its own: layout changes before an operator are credited like the operator that follows them, those
    after it like the one before.

    Args:
        path: The profile of a model named by `name_nodes`.
        model: That model.
        owners: The block of each node.
        runs: The last so many runs count; the ones before were warm-up.

    Raises:
        InputError: The profile is cut short.
    """
    try:
        events = json.loads(path.read_text())
    except ValueError:
        raise InputError(
            f"ONNX Runtime's profile of the model is cut short; there may be no space left for it in {path.parent}."
        ) from None
    names = {node.name: i for i, node in enumerate(model.graph.node)}
    names |= {output: i for i, node in enumerate(model.graph.node) for output in node.output if output}
    by_run: list[list[tuple[str, float]]] = []
    current: list[tuple[str, float]] = []
    # A run's own event comes behind those of its nodes.
    for event in sorted(events, key=lambda e: (e["ts"] + e["dur"], e["cat"] == "Session")):
        if event["cat"] == "Node" and event["name"].endswith(_SUFFIX):
            current.append((event["name"].removesuffix(_SUFFIX), event["dur"] / 1e6))
        elif event["name"] == "model_run":
            by_run.append(current)
            current = []
    times: dict[str, list[float]] = defaultdict(list)
    for run in by_run[-runs:]:
        for name, seconds in run:
            times[name].append(seconds)
    # Node by node: an interruption hits few nodes of a run, but on a busy machine most runs.
    typical = [(name, float(np.median(times[name]))) for name, _ in by_run[-1]]
    return _credited(typical, names, owners)


def _credited(
    run: Sequence[tuple[str, float]], names: Mapping[str, int], owners: Mapping[int, str]
) -> dict[str | None, float]:
    sums: dict[str | None, float] = defaultdict(float)
    waiting = 0.0
    last: str | None = None
    for name, seconds in run:
        node = _node_of(name, names)
        if node is None and name.startswith("ReorderOutput"):
            sums[last] += seconds
        elif node is None:
            waiting += seconds
        else:
            last = owners.get(node)
            sums[last] += seconds + waiting
            waiting = 0.0
    sums[last] += waiting
    return sums


def _node_of(name: str, names: Mapping[str, int]) -> int | None:
    """The node that a profiled name stands for: the longest node or value name that it begins with."""
    if name in names:
        return names[name]
    end = len(name)
    while (end := name.rfind("_", 0, end)) > 0:
        if name[:end] in names:
            return names[name[:end]]
    return None
