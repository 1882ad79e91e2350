"""What does the penalty cost? One training step without it, with ours, and with the original's, interleaved.

    python samples/benchmarks/training_step.py --json samples/benchmarks/results/training_step_cpu.json
    python samples/benchmarks/training_step.py --model resnet20 --rounds 20 --json step.json
    python samples/benchmarks/training_step.py --device cuda --precision bf16

Without options it is the paper's ResNet-18 on CIFAR-10 shapes, batch 128. The original's penalty is POT's
`max_sliced_wasserstein_distance` (50 random directions, all of them under autograd) on the same blocks. Every round
runs each step once, in an order that rotates; the cost is the median over rounds of the paired ratio to the step
without penalty, with a bootstrap interval. On the CPU the process's own CPU time is shown too: it is what to look at
on a machine that others keep busy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lacoot_deploy.training.blocks import BlockCapture, locate_blocks
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.penalty import block_penalty
from lacoot_deploy.training.recipe import Recipe

Values = dict[str, tuple[Tensor, Tensor]]


def originals(values: Values) -> Tensor:
    """The penalty as the paper's code computes it."""
    import ot

    distances = [
        ot.sliced.max_sliced_wasserstein_distance(
            x.flatten(1).float(), y.flatten(1).float(), n_projections=50
        )
        for x, y in values.values()
    ]
    return torch.stack(distances).mean()


def steps(arguments: argparse.Namespace) -> tuple[dict[str, Callable[[], None]], int]:
    """One function per kind of step, all on one network, and the number of blocks penalised."""
    recipe = Recipe(model=arguments.model)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    model = build_model(recipe, classes=10, channels=3)
    found = locate_blocks(model, torch.rand(4, 3, arguments.side, arguments.side))
    layout = torch.contiguous_format if arguments.contiguous else torch.channels_last
    model = model.to(device, memory_format=layout).train()
    capture = BlockCapture(found.tracked)
    network = torch.compile(model) if arguments.compile else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    shape = (arguments.batch, 3, arguments.side, arguments.side)
    images = torch.randn(shape, device=device).contiguous(memory_format=layout)
    labels = torch.randint(10, (arguments.batch,), device=device)
    generator = torch.Generator(device=device).manual_seed(0)

    def step(penalty: Callable[[Values], Tensor] | None) -> None:
        optimizer.zero_grad(set_to_none=True)
        half = torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16")
        with capture.watching(penalty is not None), half:
            logits = network(images)
        loss = functional.cross_entropy(logits.float(), labels)
        values = capture.take()
        if penalty is not None:
            loss = loss + penalty(values)
        del values
        loss.backward()
        optimizer.step()

    kinds = {
        "plain": lambda: step(None),
        "ours": lambda: step(lambda values: block_penalty(values, recipe.distance, generator)),
    }
    if not arguments.no_original:
        kinds["original"] = lambda: step(originals)
    return kinds, len(found.tracked)


def figures(arguments: argparse.Namespace) -> dict[str, object]:
    """Time the steps and say what the penalty costs."""
    kinds, blocks = steps(arguments)
    cuda = arguments.device == "cuda"
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    seconds = common.in_turns(kinds, arguments.rounds, warm=3 if cuda else 1, wait=wait)
    found: dict[str, object] = {
        "model": arguments.model,
        "batch": arguments.batch,
        "blocks": blocks,
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "precision": arguments.precision,
        "compiled": arguments.compile,
        "machine": common.machine(),
    }
    for clock in ("wall",) if cuda else ("wall", "cpu"):
        plain = seconds[clock]["plain"]
        for name, values in seconds[clock].items():
            figure: dict[str, object] = {"median_ms": 1000 * float(np.median(values))}
            text = f"{clock:5}{name:10}{1000 * float(np.median(values)):9.1f} ms"
            if name != "plain":
                middle, low, high = (100 * (ratio - 1) for ratio in common.paired_ratio(values, plain))
                figure |= {"cost_percent": middle, "ci95": [low, high]}
                text += f"   {middle:+.1f} % [{low:+.1f}, {high:+.1f}]"
            found[f"{clock}_{name}"] = figure
            print(text, flush=True)
    return found


def parser() -> argparse.ArgumentParser:
    """The options; `parse_args([])` gives the paper's step."""
    made = common.parser(__doc__)
    made.add_argument("--model", default="resnet18-cifar")
    made.add_argument("--batch", type=int, default=128)
    made.add_argument("--side", type=int, default=32)
    made.add_argument("--rounds", type=int, default=15)
    made.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    made.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    made.add_argument("--contiguous", action="store_true", help="channels first instead of channels last")
    made.add_argument("--compile", action="store_true", help="the network through torch.compile")
    made.add_argument("--no-original", action="store_true", help="leave POT out")
    made.add_argument("--json", type=Path, help="write the figures there")
    return made


def main() -> None:
    arguments = parser().parse_args()
    print(f"{arguments.model}, batch {arguments.batch}, {arguments.rounds} rounds")
    common.write(arguments.json, figures(arguments))


if __name__ == "__main__":
    main()
