"""A gate for continuous integration: fails when the collapsed model is no longer faster, or no longer right.

    python samples/07_ci_gate.py dense.onnx collapsed.onnx --data npz:test.npz --max-drop 1 --min-speedup 1.2

The exit code tells what failed: 4 accuracy, 6 speed. The same as two commands:

    lacoot-deploy compare dense.onnx collapsed.onnx --data npz:test.npz --max-drop 1
    lacoot-deploy bench dense.onnx collapsed.onnx --require-speedup 1.2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import lacoot_deploy as ld


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dense", type=Path)
    parser.add_argument("collapsed", type=Path)
    parser.add_argument("--data", help="samples to compare on; without them only speed is looked at")
    parser.add_argument("--max-drop", type=float, default=1.0, help="points of accuracy that may be lost")
    parser.add_argument(
        "--min-speedup", type=float, default=1.0, help="the lower end of its interval must reach this"
    )
    parser.add_argument("--min-time", type=float, default=8.0, help="seconds of timed runs")
    parser.add_argument("--report", type=Path, help="a page to keep as an artefact of the build")
    arguments = parser.parse_args()
    models = (arguments.dense, arguments.collapsed)
    data = arguments.data
    try:
        if data is not None:
            limits = ld.Limits(max_drop=arguments.max_drop)
            compared = ld.compare(*models, data, limits=limits)
            compared.require()
            print(f"predictions agree in {compared.agreement:.2f} %")
        measured = ld.benchmark(*models, options=ld.BenchOptions(min_time=arguments.min_time))
        measured.require(speedup=arguments.min_speedup)
        print(f"{measured.speedup:.2f} times as fast, 95 % interval {measured.ci95}")
    except ld.LacootError as error:
        print(f"FAILED: {error}")
        return error.exit_code
    finally:
        if arguments.report is not None:
            ld.report(models, arguments.report, data=data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
