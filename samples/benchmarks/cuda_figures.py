"""Every figure that only a GPU can give, one after the other.

    python samples/benchmarks/cuda_figures.py --list
    python samples/benchmarks/cuda_figures.py --data cifar10:PATH --folder runs
    python samples/benchmarks/cuda_figures.py --data cifar10:PATH --folder runs --only step latency-vit_b_16

Each figure is its own script's; what it writes lies in `--output`. A step that fails does not stop the others and is
named at the end (exit code 1). Trainings are kept in `--folder` and gone on with, so that an interrupted run can be
started again. On a machine without a GPU that works, the program says so and ends with exit code 7, having measured
nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import lacoot_deploy as ld

HERE = Path(__file__).resolve().parent
NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "swin_t", "vit_b_16")
RECIPE = HERE.parent / "recipes" / "resnet18-cifar10.toml"


def steps(data: str, folder: Path, output: Path) -> dict[str, list[str]]:
    """The command line of each figure, the quick ones first."""
    table = str(output / "latency_table_cuda.json")
    paper = [str(RECIPE), "--set", f"data={data}", "--set", "device=cuda", "--set", "precision=bf16"]
    found = {
        "step": ["training_step.py", "--device", "cuda", "--json", str(output / "training_step_cuda.json")],
        "step-bf16": [
            *("training_step.py", "--device", "cuda", "--precision", "bf16"),
            *("--json", str(output / "training_step_cuda_bf16.json")),
        ],
        "distance": ["distance_speed.py", "--device", "cuda", "--data", data, "--output", str(output)],
    }
    for network in NETWORKS:
        found[f"latency-{network}"] = [
            *("latency_table.py", "--provider", "cuda", "--networks", network),
            *("--out", table),
        ]
    found["paper"] = [
        *("paper_table.py", *paper, "--lambdas", "1", "2", "--folder", str(folder / "paper18")),
        *("-o", str(output / "paper_resnet18_cuda.json")),
    ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="cifar10:cifar10.zip", help="CIFAR-10")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="folder of the training runs")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the figures")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps alone")
    parser.add_argument("--list", action="store_true", help="show the steps and their commands, run nothing")
    arguments = parser.parse_args()
    every = steps(arguments.data, arguments.folder, arguments.output)
    unknown = sorted(set(arguments.only or ()) - set(every))
    if unknown:
        parser.error(f"there is no step {', '.join(unknown)}; there are: {', '.join(every)}")
    chosen = {name: line for name, line in every.items() if not arguments.only or name in arguments.only}
    if arguments.list:
        for name, line in chosen.items():
            print(f"{name}: python samples/benchmarks/{' '.join(line)}")
        return 0
    cuda = next(provider for provider in ld.doctor().providers if provider.name == "cuda")
    if not cuda.works:
        print(f"CUDA does not work here: {cuda.problem}", file=sys.stderr)
        return 7
    failed = []
    for name, line in chosen.items():
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        ended = subprocess.run([sys.executable, str(HERE / line[0]), *line[1:]], check=False)
        print(
            f"== {name}: exit code {ended.returncode}, {time.perf_counter() - began:.0f} s\n",
            flush=True,
        )
        if ended.returncode:
            failed.append(name)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
