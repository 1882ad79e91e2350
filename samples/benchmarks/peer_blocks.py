"""Which residual blocks does a peer find, and which does this tool?

    pip install '.[dev]'
    python samples/benchmarks/peer_blocks.py
    python samples/benchmarks/peer_blocks.py --only resnet18 bert --exporter torchscript

The peer is onnxsim's `apply_transformer_block_pruning`, told to drop every block that it matches. It gets the very
files that this tool gets, and then what onnxsim itself and ONNX Runtime's optimiser (basic and extended) make of them,
with the network's own example inputs to calibrate on; the best of its four results counts. The architectures are those
of the tests (tests/graph/architectures.py), small and with random weights, each with the modules that are its residual
blocks written down.

A block counts as found by the peer where the merge of one of its residual units is gone from the pruned file, and as
removed where all are. What this tool finds is what `inspect` calls removable under the module's very name. Prints a
table and writes everything as JSON.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx

from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Block

REPOSITORY = Path(__file__).resolve().parents[2]
EVERY = 1_000_000
"""More blocks than any of these networks has: the peer caps it at what it matched."""


@dataclass(frozen=True)
class Peer:
    """What the peer did to one file: blocks with a unit gone, blocks with all units gone, or why it did nothing."""

    touched: tuple[str, ...]
    removed: tuple[str, ...]
    problem: str | None


def prune(model: onnx.ModelProto, feeds: dict[str, Any]) -> onnx.ModelProto:
    """The model without every block that onnxsim matches."""
    import onnxsim

    return onnxsim.apply_transformer_block_pruning(
        model, calibration_data=[feeds], num_blocks_to_drop=EVERY, providers=["CPUExecutionProvider"]
    )


def peer_on(model: onnx.ModelProto, feeds: dict[str, Any]) -> Peer:
    """Prune a file and tell which blocks lost their merges."""
    blocks = [block for block in find_blocks(model) if block.collapsible]
    try:
        after = prune(model, feeds)
    except Exception as error:
        return Peer((), (), first_line(error))
    left = {name for node in after.graph.node if node.op_type != "Identity" for name in node.output}
    gone = {block.name: [unit.merge not in left for unit in block.units] for block in blocks}
    return Peer(
        tuple(name for name, units in gone.items() if any(units)),
        tuple(name for name, units in gone.items() if all(units)),
        None,
    )


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxsim makes of a model."""
    import onnxsim

    return onnxsim.simplify(model)[0]


def optimised(level: str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """What ONNX Runtime's optimiser makes of a model."""

    def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.log_severity_level = 4
        with tempfile.TemporaryDirectory() as folder:
            options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return onnx.load(options.optimized_model_filepath)

    return rewrite


FILES: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "as exported": lambda model: model,
    "simplified": simplified,
    "ONNX Runtime, basic": optimised("BASIC"),
    "ONNX Runtime, extended": optimised("EXTENDED"),
}


def best_of(model: onnx.ModelProto, feeds: dict[str, Any]) -> tuple[str, Peer]:
    """The peer on the file as it is and as others rewrote it: the one from which it took the most."""
    results: dict[str, Peer] = {}
    for name, rewrite in FILES.items():
        try:
            results[name] = peer_on(rewrite(model), feeds)
        except Exception as error:
            results[name] = Peer((), (), first_line(error))
    return max(results.items(), key=lambda entry: (len(entry[1].removed), len(entry[1].touched)))


def first_line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def compare(architecture: Any, exporter: str) -> dict[str, Any]:
    """One architecture: what there is, what this tool finds, what the peer finds."""
    import torch
    from ground_truth import exported

    model, expected = exported(architecture, exporter)
    torch.manual_seed(0)
    names = [value.name for value in model.graph.input]
    arrays = [tensor.numpy() for tensor in flat(architecture.build()[1])]
    feeds: dict[str, np.ndarray] = dict(zip(names, arrays, strict=True))
    ours: list[Block] = [block for block in find_blocks(model) if block.collapsible]
    how, peer = best_of(model, feeds)
    return {
        "architecture": architecture.name,
        "blocks": sorted(expected),
        "ours": sorted(block.name for block in ours if block.name in expected),
        "ours beside": sorted(block.name for block in ours if block.name not in expected),
        "peer file": how,
        "peer touched": list(peer.touched),
        "peer removed": list(peer.removed),
        "peer problem": peer.problem,
    }


def flat(value: Any) -> list[Any]:
    """The tensors of nested tuples, in order."""
    return [part for item in value for part in flat(item)] if isinstance(value, (tuple, list)) else [value]


COLUMNS = ("blocks", "ours", "ours beside", "peer touched", "peer removed")
ROW = "{:20} {:>6} {:>10} {:>10} {:>10} {:>10}  {}"


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table, at most 80 columns wide."""
    print(
        ROW.format(
            "architecture", "blocks", "found here", "not blocks", "peer, part", "peer whole", ""
        ).rstrip()
    )
    for row in rows:
        counts = [len(row[key]) for key in COLUMNS]
        print(ROW.format(row["architecture"], *counts, "failed" if row["peer problem"] else "").rstrip())
    totals = [sum(len(row[key]) for row in rows) for key in COLUMNS]
    print(ROW.format("all", *totals, "").rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, write; 4 where this tool does not find exactly the blocks that there are."""
    parser = common.parser(__doc__)
    parser.add_argument("--only", nargs="*", help="these architectures (default: all that have blocks)")
    parser.add_argument("--exporter", choices=["dynamo", "torchscript"], default="dynamo")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "peer_blocks.json"
    )
    options = parser.parse_args(arguments)

    sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "graph")]
    from architectures import ARCHITECTURES
    from ground_truth import none

    chosen = [
        architecture
        for architecture in ARCHITECTURES
        if (architecture.name in options.only if options.only else architecture.expected is not none)
        if options.exporter in architecture.exporters
    ]
    rows = []
    for number, architecture in enumerate(chosen, 1):
        print(f"{number} of {len(chosen)}: {architecture.name}", file=sys.stderr)
        rows.append(compare(architecture, options.exporter))
    show(rows)
    report = {
        "architectures": rows,
        "exporter": options.exporter,
        "peer": {
            "package": "onnxsim",
            "version": version("onnxsim"),
            "call": "apply_transformer_block_pruning",
        },
        "machine": common.machine(),
    }
    common.write(options.output, report)
    exact = all(row["blocks"] == row["ours"] and not row["ours beside"] for row in rows)
    return 0 if exact else 4


if __name__ == "__main__":
    sys.exit(main())
