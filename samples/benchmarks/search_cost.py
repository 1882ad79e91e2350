"""What a greedy search costs, against the naive way, with equal choices.

The naive way builds a new file and a new session for every candidate and runs it on all samples from input to output;
to fit a repair it does so once more for every removed block. The search runs the network split at its blocks: what
lies before the first change is reused, no session is built anew, and a candidate that is sure to lose is given up.
Both are timed in one run, step by step in turns, and must choose the same blocks.

    python samples/benchmarks/search_cost.py model.onnx --data cifar10:PATH --depth 6 \
        -o samples/benchmarks/results/search_cost_cpu.json
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import common
import numpy as np

from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.data.types import Samples
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.expose import expose_values
from lacoot_deploy.graph.surgery.channels import channel_axis
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session
from lacoot_deploy.selection.criteria import CRITERIA
from lacoot_deploy.selection.engine import Engine
from lacoot_deploy.selection.maps import fit_repair
from lacoot_deploy.selection.options import SearchOptions
from lacoot_deploy.selection.search import Step, greedy
from lacoot_deploy.workflow.data import samples_for
from lacoot_deploy.workflow.inspecting import open_model


class Naive:
    """The network as a file that is built anew for every candidate."""

    def __init__(self, opened: Any, blocks: list[Block], fit: Samples, choose: Samples, batch: int) -> None:
        self.model, self.fit, self.choose, self.batch = opened.model, fit, choose, batch
        order = {node.output[0]: i for i, node in enumerate(self.model.graph.node)}
        self.blocks = sorted(blocks, key=lambda block: order[block.output])
        self.targets = self._run(expose_values(self.model, [b.output for b in blocks]), fit)
        self.output = self.model.graph.output[0].name

    def _run(self, model: Any, samples: Samples) -> dict[str, np.ndarray]:
        session = open_session(model, runtime=Runtime("cpu"))
        batches = [session.run(feeds) for feeds in samples.batches(self.batch)]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _cuts(self, names: set[str], repair: str) -> list[Cut]:
        removed = [block for block in self.blocks if block.name in names]
        cuts: list[Cut] = []
        for i, block in enumerate(removed):
            shared = i + 1 < len(removed) and removed[i + 1].input == block.output
            fitted = None
            if repair != "none" and not shared:
                # A run that ends has no reader left for its own input once it is cut: look at where it starts.
                start = block
                while (before := next((b for b in removed if b.output == start.input), None)) is not None:
                    start = before
                short = collapse_blocks(self.model, [c for c in cuts if c.block.output != start.input])
                value = self._run(expose_values(short, [start.input]), self.fit)[start.input]
                axis = channel_axis(self.model, block.input, 4)
                fitted = fit_repair(repair, [value], [self.targets[block.output]], axis or 1)
            cuts.append(Cut(block, Form.BYPASS, fitted))
        return cuts

    def _loss(self, names: set[str], repair: str) -> float:
        logits = self._run(collapse_blocks(self.model, self._cuts(names, repair)), self.choose)[self.output]
        values = logits.astype(np.float64)
        log = values - values.max(axis=1, keepdims=True)
        log -= np.log(np.exp(log).sum(axis=1, keepdims=True))
        assert self.choose.labels is not None
        return float(-np.mean(log[np.arange(len(log)), self.choose.labels]))

    def greedy(self, depth: int, repair: str) -> list[str]:
        """The blocks in the order in which they go."""
        gone: list[str] = []
        while len(gone) < depth:
            left = [block.name for block in self.blocks if block.name not in gone]
            gone.append(min(left, key=lambda name: self._loss({*gone, name}, repair)))
        return gone


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--depth", type=int, default=6, help="blocks to remove")
    parser.add_argument("--repairs", nargs="+", default=["none", "linear"])
    parser.add_argument("--fit", type=int, default=256)
    parser.add_argument("--choose", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    opened = open_model(arguments.model)
    count = arguments.fit + arguments.choose
    samples = samples_for(
        opened.model, opened.manifest, DataOptions(spec=arguments.data, split="val", limit=count)
    )
    order = np.random.default_rng(0).permutation(len(samples))
    fit, choose = samples.take(order[: arguments.fit]), samples.take(order[arguments.fit :])
    blocks = [block for block in opened.blocks if Form.BYPASS in block.forms]
    # Both ways import and start ONNX Runtime; neither shall pay for it alone.
    open_session(opened.model, runtime=Runtime("cpu")).run(next(choose.batches(2)))
    rows = []
    for repair in arguments.repairs:
        taken = iter(range(1, arguments.depth + 1))

        def deep_enough(step: Step, taken: Any = taken) -> bool:
            return bool(next(taken) >= arguments.depth)

        start = time.perf_counter(), time.process_time()
        engine = Engine(
            opened.model,
            blocks,
            fit if repair != "none" else None,
            choose,
            runtime=Runtime("cpu"),
            batch_size=arguments.batch,
        )
        path = greedy(
            engine,
            [block.name for block in blocks],
            CRITERIA["loss"],
            options=SearchOptions(repair=repair, form="bypass"),
            stop=deep_enough,
        )
        middle = time.perf_counter(), time.process_time()
        naive = Naive(opened, blocks, fit, choose, arguments.batch).greedy(arguments.depth, repair)
        end = time.perf_counter(), time.process_time()
        ours, theirs = [step.block for step in path], naive
        rows.append(
            {
                "repair": repair,
                "ours": ours,
                "naive": theirs,
                "equal": ours == theirs,
                "seconds": {"ours": middle[0] - start[0], "naive": end[0] - middle[0]},
                "cpu_seconds": {"ours": middle[1] - start[1], "naive": end[1] - middle[1]},
                "ratio": (middle[1] - start[1]) / (end[1] - middle[1]),
            }
        )
        print(
            f"{repair}: search {rows[-1]['cpu_seconds']['ours']:.1f} s, naive "
            f"{rows[-1]['cpu_seconds']['naive']:.1f} s of CPU time: {rows[-1]['ratio']:.2f} of it; "
            f"{'the same blocks' if ours == theirs else f'other blocks: {ours} {theirs}'}",
            flush=True,
        )
    if arguments.output is not None:
        result = {
            "machine": common.machine(),
            "blocks": len(blocks),
            "depth": arguments.depth,
            "samples": {"fit": len(fit), "choose": len(choose)},
            "rows": rows,
        }
        common.write(arguments.output, result)


if __name__ == "__main__":
    main()
