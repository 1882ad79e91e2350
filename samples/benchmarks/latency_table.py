"""What collapsing saves on this device: five networks, a quarter and a half of their blocks gone.

    python samples/benchmarks/latency_table.py                              # CPU: batch 1, float32
    python samples/benchmarks/latency_table.py --provider cuda              # GPU: batches 1 and 64, float32 and float16

Latency does not depend on the weights, so the networks are untrained and the blocks are taken evenly from those that
can be bypassed. Each row holds the speed-up against what the latency of the removed blocks promised (see
`lacoot_deploy.bench.per_block`). On CUDA inputs and outputs stay on the device; the figures with host copies and as a
CUDA graph are in the JSON beside it. Prints a Markdown table and writes all figures as JSON; a file that is there
already is added to, so that the table can be taken in pieces:

    python samples/benchmarks/latency_table.py --provider cuda --networks resnet18 resnet50 --out cuda.json
    python samples/benchmarks/latency_table.py --provider cuda --networks vit_b_16 --out cuda.json

float16 is not measured on the CPU unless asked for: for most operators ONNX Runtime has no float16 kernel there, so it
casts to float32 and back around them, and the figures say nothing of float16.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import onnx
import torch
import torchvision

from lacoot_deploy.bench import bench
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.bench.per_block import BlockLatencies, block_latencies, realised
from lacoot_deploy.errors import LacootError
from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.training.export import to_onnx

NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "resnet50": torchvision.models.resnet50,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "swin_t": torchvision.models.swin_t,
    "vit_b_16": torchvision.models.vit_b_16,
}
SHARES = {"quarter": 0.25, "half": 0.5}
COLUMNS = (
    "network",
    "batch",
    "type",
    "removed",
    "dense, ms",
    "collapsed, ms",
    "speed-up (95 %)",
    "expected",
    "realised",
)


def evenly(blocks: Sequence[Block], count: int) -> list[Block]:
    """That many blocks, spread over the network."""
    return [blocks[int((i + 0.5) * len(blocks) / count)] for i in range(count)]


def as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16, inputs and outputs included."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    converted: onnx.ModelProto = convert_float_to_float16(copy)
    return converted


def rows_of(
    name: str, dtype: str, batches: Sequence[int], options: BenchOptions, runtime: Runtime, folder: Path
) -> list[dict[str, Any]]:
    """Measure one network in one type."""
    torch.manual_seed(0)
    dense = to_onnx(NETWORKS[name](), torch.randn(2, 3, 224, 224))
    if dtype == "float16":
        dense = as_float16(dense)
    path = folder / f"{name}.{dtype}.onnx"
    onnx.save(dense, str(path))
    able = [block for block in find_blocks(dense) if block.forms[:1] == (Form.BYPASS,)]
    smaller: dict[str, tuple[list[Block], Path]] = {}
    for share, part in SHARES.items():
        chosen = evenly(able, max(1, round(part * len(able))))
        target = folder / f"{name}.{dtype}.{share}.onnx"
        onnx.save(collapse_blocks(dense, [Cut(block, Form.BYPASS) for block in chosen]), str(target))
        smaller[share] = (chosen, target)
    rows = []
    for batch in batches:
        latencies = block_latencies(path, able, replace(options, batch=batch), runtime=runtime)
        for share, (chosen, target) in smaller.items():
            rows.append(
                _row(name, dtype, batch, share, chosen, len(able), latencies, path, target, options, runtime)
            )
            print(markdown(rows[-1]), flush=True)
    return rows


def _row(
    name: str,
    dtype: str,
    batch: int,
    share: str,
    chosen: list[Block],
    able: int,
    latencies: BlockLatencies,
    dense: Path,
    collapsed: Path,
    options: BenchOptions,
    runtime: Runtime,
) -> dict[str, Any]:
    result = bench(dense, collapsed, replace(options, batch=batch, memory=False), runtime=runtime)
    assert result.b is not None
    removed = [block.name for block in chosen]
    kept = realised(latencies, removed, result)
    return {
        "network": name,
        "dtype": dtype,
        "batch": batch,
        "share": share,
        "removed": removed,
        "collapsible": able,
        "dense_ms": result.a.p50_ms,
        "collapsed_ms": result.b.p50_ms,
        "speedup": result.speedup,
        "ci95": result.ci95,
        "noise_floor": result.noise_floor,
        "verdict": result.verdict,
        "expected_speedup": kept.expected_speedup,
        "realised": kept.share,
        "variants": {key: variant.model_dump() for key, variant in result.variants.items()},
        "cpu_nodes": result.a.cpu_nodes,
        "warnings": result.warnings,
        "environment": result.environment.model_dump(mode="json"),
    }


def markdown(row: dict[str, Any]) -> str:
    """One row of the table."""
    low, high = row["ci95"]
    return (
        f"| {row['network']} | {row['batch']} | {row['dtype']} | {len(row['removed'])} of {row['collapsible']} "
        f"| {row['dense_ms']:.3g} | {row['collapsed_ms']:.3g} | {row['speedup']:.3f} ({low:.3f} to {high:.3f}) "
        f"| {row['expected_speedup']:.3f} | {row['realised']:.0%} |"
    )


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 on the CPU, 1 and 64 elsewhere")
    parser.add_argument(
        "--dtypes", nargs="+", choices=["float32", "float16"], help="default: float32 on the CPU, else both"
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--min-time", type=float, default=8.0)
    parser.add_argument("--out", type=Path, help="write all figures to this JSON file")
    arguments = parser.parse_args()
    on_cpu = arguments.provider == "cpu"
    batches = arguments.batches or ([1] if on_cpu else [1, 64])
    dtypes = arguments.dtypes or (["float32"] if on_cpu else ["float32", "float16"])
    options = BenchOptions(min_time=arguments.min_time)
    runtime = Runtime(arguments.provider, arguments.threads)
    document: dict[str, Any] = {"rows": [], "failures": {}}
    if arguments.out and arguments.out.is_file():
        document = json.loads(arguments.out.read_text())
    document |= {
        "command": " ".join(["python", *sys.argv]),
        "machine": common.machine(),
    }
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            for dtype in dtypes:
                try:
                    rows = rows_of(name, dtype, batches, options, runtime, Path(folder))
                except LacootError as error:
                    document["failures"][f"{name} {dtype}"] = str(error)
                    print(f"{name} {dtype}: {error}", flush=True)
                    continue
                document["failures"].pop(f"{name} {dtype}", None)
                document["rows"] = merged(document["rows"], rows)
                if arguments.out:
                    common.write(arguments.out, document)
    if document["failures"]:
        raise SystemExit(f"not measured: {', '.join(document['failures'])}")


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of both, the new ones in place of old ones of the same case; in the order of the table."""

    def case(row: dict[str, Any]) -> tuple[int, int, str, str]:
        return list(NETWORKS).index(row["network"]), row["batch"], row["dtype"], row["share"]

    rows = {case(row): row for row in (*old, *new)}
    order = list(SHARES)
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0], key[2], key[1], order.index(key[3])))]


if __name__ == "__main__":
    main()
