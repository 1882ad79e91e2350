"""LayerCollapse of VGG-16's two hidden layers: parameters, accuracy on the same test images in pairs, latency.

    lacoot-deploy train samples/recipes/vgg16-cifar10-cpu.toml --set data=cifar10:PATH -o runs/vgg
    lacoot-deploy train samples/recipes/layercollapse-vgg16-cifar10-cpu.toml --set data=cifar10:PATH \
        --set weights=runs/vgg/checkpoint.safetensors -o runs/vgg-collapsed
    python samples/benchmarks/vgg_layercollapse.py --data cifar10:PATH --dense runs/vgg --collapsed runs/vgg-collapsed \
        [--longer RUN] -o samples/benchmarks/results/vgg_layercollapse_cpu.json

`--longer` is the control, the dense network trained on for as many epochs at the same learning rate: the first command
with `--set weights=runs/vgg/checkpoint.safetensors --set epochs=6 --set lr=0.01 --set warmup=0 -o runs/vgg-longer`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import common

from lacoot_deploy.bench import bench
from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.graph.discovery.costs import model_costs
from lacoot_deploy.graph.model.io import load_model
from lacoot_deploy.manifest import read_manifest
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.workflow.comparing import compare


def judged(a: Path, b: Path, data: str) -> dict[str, Any]:
    """Accuracies on the test images and the drop from A to B with its paired interval, in points."""
    score = compare(a, b, DataOptions(data, split="test"), runtime=Runtime("cpu"), batch_size=100)
    assert score.accuracy is not None
    found = score.accuracy
    return {
        "a": found.a,
        "b": found.b,
        "drop": found.drop_points,
        "ci95": found.ci95,
        "images": score.samples,
    }


def timed(a: Path, b: Path, batch: int, seconds: float) -> dict[str, Any]:
    result = bench(
        a,
        b,
        runtime=Runtime("cpu", threads=1),
        options=BenchOptions(batch=batch, min_time=seconds, memory=False),
    )
    return {"batch": batch, "ms": result.a.p50_ms, "own_ms": result.b.p50_ms, "speedup": result.speedup,
            "ci95": result.ci95, "verdict": result.verdict}  # fmt: skip


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", required=True, help="cifar10:PATH")
    parser.add_argument("--dense", type=Path, required=True, help="run folder of the dense network")
    parser.add_argument("--collapsed", type=Path, required=True, help="run folder of LayerCollapse")
    parser.add_argument("--longer", type=Path, help="run folder of the dense network trained on")
    parser.add_argument(
        "--latency", type=float, metavar="SECONDS", help="measure latency too, that long each"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    dense, merged = args.dense / "model.onnx", args.collapsed / "model.onnx"
    manifest = read_manifest(load_model(merged))
    assert manifest is not None
    assert manifest.source is not None
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    if "accuracy" not in found:
        sizes = {
            name: model_costs(load_model(path))
            for name, path in (
                ("dense", dense),
                ("unmerged", args.collapsed / "unmerged.onnx"),
                ("merged", merged),
            )
        }
        share = 100 * (1 - sizes["merged"].parameters / sizes["dense"].parameters)
        found |= {
            "machine": common.machine(),
            "recipe": manifest.source.recipe,
            "rounds": [r.model_dump(mode="json") for r in manifest.source.rounds],
            "linear": manifest.history[-1].linearised,
            "merged": manifest.history[-1].merged,
            "sizes": {name: {"parameters": c.parameters, "macs": c.macs} for name, c in sizes.items()},
            "fewer_parameters_percent": share,
            "accuracy": judged(dense, merged, args.data),
        }
    if args.longer is not None:
        found["against_longer"] = judged(args.longer / "model.onnx", merged, args.data)
    if args.latency:
        found["latency"] = [timed(dense, merged, batch, args.latency) for batch in (1, 16)]
    common.write(args.out, found)
    print(
        json.dumps(
            {
                k: found.get(k)
                for k in ("fewer_parameters_percent", "sizes", "accuracy", "against_longer", "latency")
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
