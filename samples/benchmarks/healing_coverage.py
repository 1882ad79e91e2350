"""Which networks PyTorch runs as ONNX Runtime does: every architecture of the ground truth, from both exporters.

For each: its operators, the largest difference of an output over its largest entry, and the share of its parameters
that can be trained. An export is kept in the folder that `LACOOT_TEST_CACHE` names.

    python samples/benchmarks/healing_coverage.py -o samples/benchmarks/results/healing_coverage.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path[:0] = [str(TESTS / "graph"), str(TESTS)]

from architectures import ARCHITECTURES  # noqa: E402
from builders import run  # noqa: E402
from ground_truth import exported  # noqa: E402

from lacoot_deploy.errors import LacootError  # noqa: E402
from lacoot_deploy.healing.equality import difference  # noqa: E402
from lacoot_deploy.healing.flat import flatten  # noqa: E402
from lacoot_deploy.healing.module import graph_module  # noqa: E402
from lacoot_deploy.healing.weights import FLOATS, trainable_weights  # noqa: E402


def flat(value: Any) -> list[Any]:
    return [t for part in value for t in flat(part)] if isinstance(value, (tuple, list)) else [value]


def covered(architecture: Any, exporter: str) -> dict[str, Any]:
    model, _ = exported(architecture, exporter)
    torch.manual_seed(0)
    _, inputs = architecture.build()
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in constants]
    feeds = dict(zip(names, flat(inputs), strict=True))
    graph = flatten(model)
    kinds = sorted({f"{node.domain}.{node.op}".lstrip(".") for node in graph.nodes})
    found: dict[str, Any] = {"name": architecture.name, "exporter": exporter, "operators": kinds}
    try:
        weights = trainable_weights(graph)
        module = graph_module(graph, weights=weights)
        with torch.no_grad():
            values = module.values(feeds)
    except LacootError as error:
        return found | {"error": str(error)}
    expected = run(model, {name: tensor.numpy() for name, tensor in feeds.items()})
    worst = max(
        difference(values[value.name].numpy(), theirs)
        for value, theirs in zip(model.graph.output, expected, strict=True)
    )
    sizes = {
        n: int(np.prod(c.tensor.dims)) for n, c in graph.constants.items() if c.tensor.data_type in FLOATS
    }
    share = sum(sizes[name] for name in weights) / sum(sizes.values())
    return found | {"difference": worst, "weights": len(weights), "trained_share": share}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    rows = []
    for architecture in ARCHITECTURES:
        for exporter in architecture.exporters:
            rows.append(covered(architecture, exporter))
            print(*list(rows[-1].items())[:2], rows[-1].get("difference", rows[-1].get("error")), flush=True)
    good = [row for row in rows if row.get("difference", 1.0) < 1e-5]
    summary = {
        "architectures": len(ARCHITECTURES),
        "files": len(rows),
        "equal": len(good),
        "largest_difference": max(row["difference"] for row in good),
        "operators": sorted({kind for row in rows for kind in row["operators"]}),
    }
    output.write_text(json.dumps({"summary": summary, "networks": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
