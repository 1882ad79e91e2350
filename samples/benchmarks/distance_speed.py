"""How fast is the distance, and does it estimate the same thing as the original's?

    python samples/benchmarks/distance_speed.py
    python samples/benchmarks/distance_speed.py --data cifar10:../shared/data/cifar10.zip

speed   Forward and backward of `max_sliced_wasserstein` against POT's `max_sliced_wasserstein_distance`, 50 directions
        each, taking turns on the same tensors; the median of the paired ratios. Wall time, and processor time, which
        other processes on the machine disturb less.
memory  What autograd keeps from forward to backward for one block, beside the activations themselves.
values  Both on the blocks' inputs and outputs of a network trained for a few steps on real images: means, spread and
        quantiles over many draws of the directions.
stride  What looking at every second position of the maps gains and does to the values.

Prints tables and writes the figures as JSON, for the CPU and, where there is CUDA, for CUDA. Ends with exit code 6
where the distance is not three times as fast in the geometric mean, or a mean is more than 5 % off.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import ot
import torch
from torch import Tensor, nn

from lacoot_deploy.data import load_images, normalise
from lacoot_deploy.data.images import preprocessing_of
from lacoot_deploy.training.models import REGISTRY, BasicBlock
from lacoot_deploy.transport import SlicedOptions, max_sliced_wasserstein

SHAPES = [(128, 65536), (128, 32768), (128, 37824), (128, 8192)]
PROJECTIONS = 50
REQUIRED_RATIO, ALLOWED_BIAS = 3.0, 0.05

Distance = Callable[[Tensor, Tensor], Tensor]


def ours(x: Tensor, y: Tensor) -> Tensor:
    return max_sliced_wasserstein(x, y, SlicedOptions(projections=PROJECTIONS))


def pot(x: Tensor, y: Tensor) -> Tensor:
    return ot.sliced.max_sliced_wasserstein_distance(x.flatten(1), y.flatten(1), n_projections=PROJECTIONS)


def strided(x: Tensor, y: Tensor) -> Tensor:
    return max_sliced_wasserstein(x, y, SlicedOptions(projections=PROJECTIONS, stride=2))


def race(first: Distance, second: Distance, x: Tensor, y: Tensor, rounds: int) -> dict[str, Any]:
    """Forward and backward of both in turns; how many times as fast the first is."""

    def step(distance: Distance) -> None:
        x.grad = y.grad = None
        distance(x, y).backward()

    wait = torch.cuda.synchronize if x.is_cuda else (lambda: None)
    kinds = {"first": lambda: step(first), "second": lambda: step(second)}
    times = common.in_turns(kinds, rounds, warm=3, wait=wait)
    result: dict[str, Any] = {}
    for clock, name in (("wall", "wall"), ("cpu", "processor")):
        ratios = times[clock]["second"] / times[clock]["first"]
        result[name] = {
            "ms": 1e3 * float(np.median(times[clock]["first"])),
            "other_ms": 1e3 * float(np.median(times[clock]["second"])),
            "ratio": float(np.median(ratios)),
            "ratio_quartiles": np.quantile(ratios, (0.25, 0.75)).tolist(),
        }
    return result


def pair(shape: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(*shape, generator=generator)
    y = x + 0.1 * torch.randn(*shape, generator=generator)
    return x.to(device).requires_grad_(), y.to(device).requires_grad_()


def kept_bytes(distance: Distance, x: Tensor, y: Tensor) -> int:
    """Bytes of distinct memory that autograd keeps for the backward, the two arguments not counted."""
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        value = distance(x, y)
    for argument in (x, y):
        kept.pop(argument.untyped_storage().data_ptr(), None)
    del value
    return sum(kept.values())


def measure_speed(device: torch.device, rounds: int) -> dict[str, Any]:
    rows = []
    for shape in SHAPES:
        x, y = pair(shape, device)
        row = {"shape": list(shape), **race(ours, pot, x, y, rounds)}
        row["kept_bytes"], row["pot_kept_bytes"] = kept_bytes(ours, x, y), kept_bytes(pot, x, y)
        rows.append(row)
        wall, processor = row["wall"], row["processor"]
        print(
            f"  {shape!s:14} {wall['ms']:8.2f} ms  POT {wall['other_ms']:8.2f} ms  {wall['ratio']:5.2f} x"
            f"   processor time {processor['ratio']:5.2f} x"
            f"   kept {row['kept_bytes'] / 2**20:6.2f} MiB  POT {row['pot_kept_bytes'] / 2**20:6.2f} MiB"
        )
    means = {c: statistics.geometric_mean(r[c]["ratio"] for r in rows) for c in ("wall", "processor")}
    print(f"  geometric mean {means['wall']:.2f} x   processor time {means['processor']:.2f} x")
    return {"shapes": rows, "geometric_mean": means}


def block_activations(data: str, steps: int, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and outputs, 128 samples each, of the residual blocks of a network trained for some steps."""
    torch.manual_seed(0)
    train, test = load_images(data, "train"), load_images(data, "test")
    preprocessing = preprocessing_of(train.images)
    model = REGISTRY["digits-resnet" if data == "digits" else "resnet20"](
        classes=len(train.classes), channels=train.images.shape[1]
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    order = np.random.default_rng(0)
    for _ in range(steps):
        chosen = order.integers(0, len(train.images), 128)
        images = torch.from_numpy(normalise(train.images[chosen], preprocessing)).to(device)
        labels = torch.from_numpy(train.labels[chosen]).to(device)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs[0].shape == output.shape:
                found[name] = inputs[0].detach(), output.detach()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, BasicBlock):
            module.register_forward_hook(note(name))
    model.eval()
    chosen = order.permutation(len(test.images))[:128]
    with torch.no_grad():
        model(torch.from_numpy(normalise(test.images[chosen], preprocessing)).to(device))
    return found


def draws(distance: Distance, x: Tensor, y: Tensor, count: int) -> np.ndarray:
    with torch.no_grad():
        return torch.stack([distance(x, y) for _ in range(count)]).double().cpu().numpy()


def summary(values: np.ndarray) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)),
        "quantiles": dict(zip(("0.05", "0.5", "0.95"), np.quantile(values, (0.05, 0.5, 0.95)), strict=True)),
    }


def ratio_of_means(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """mean(a) / mean(b) and the half width of its 95 % interval."""
    ratio = a.mean() / b.mean()
    relative = [v.std(ddof=1) / v.mean() / len(v) ** 0.5 for v in (a, b)]
    return float(ratio), float(1.96 * ratio * np.hypot(*relative))


def measure_values(blocks: dict[str, tuple[Tensor, Tensor]], count: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for name, (x, y) in blocks.items():
        values = {
            kind: draws(f, x, y, count) for kind, f in (("ours", ours), ("pot", pot), ("stride", strided))
        }
        ratio, half = ratio_of_means(values["ours"], values["pot"])
        row: dict[str, Any] = {"block": name, "shape": list(x.shape), "mean_ratio": ratio, "ci95": half}
        row |= {kind: summary(v) for kind, v in values.items()}
        row["stride_mean_ratio"], row["stride_ci95"] = ratio_of_means(values["stride"], values["ours"])
        a, b = (v.clone().requires_grad_() for v in (x, y))
        row["stride_speed"] = race(strided, ours, a, b, rounds)
        rows.append(row)
        print(
            f"  {name:10} {x[0].numel():6} features  mean {row['ours']['mean']:.4f}, sd {row['ours']['sd']:.4f};"
            f"  POT {row['pot']['mean']:.4f}, sd {row['pot']['sd']:.4f};  ratio {ratio:.3f} +- {half:.3f}"
            f"   stride 2: value x {row['stride_mean_ratio']:.3f} +- {row['stride_ci95']:.3f},"
            f" speed x {row['stride_speed']['wall']['ratio']:.2f}"
        )
    return rows


def passed(result: dict[str, Any]) -> bool:
    fast = result["speed"]["geometric_mean"]["wall"] >= REQUIRED_RATIO
    true = all(abs(row["mean_ratio"] - 1) <= ALLOWED_BIAS for row in result["values"])
    return fast and true


def main() -> int:
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="images for the values: digits, cifar10:PATH, ...")
    parser.add_argument("--steps", type=int, default=100, help="training steps of the network")
    parser.add_argument("--rounds", type=int, default=40, help="timed rounds per shape")
    parser.add_argument("--draws", type=int, default=400, help="draws of the directions per block")
    parser.add_argument("--threads", type=int, default=2, help="threads on the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), action="append", help="default: all there are")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    good = True
    for kind in options.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        device = torch.device(kind)
        print(f"{kind}: forward and backward, {PROJECTIONS} directions")
        result = {
            "machine": common.machine(),
            "device": torch.cuda.get_device_name() if kind == "cuda" else "cpu",
            "versions": {"torch": torch.__version__, "pot": ot.__version__, "numpy": np.__version__},
            "threads": torch.get_num_threads(),
            "projections": PROJECTIONS,
            "rounds": options.rounds,
            "data": options.data.partition(":")[0],
            "training_steps": options.steps,
            "draws": options.draws,
            "speed": measure_speed(device, options.rounds),
        }
        print("values on the blocks of a trained network")
        blocks = block_activations(options.data, options.steps, device)
        result["values"] = measure_values(blocks, options.draws, max(5, options.rounds // 4))
        result["passed"] = passed(result)
        good &= result["passed"]
        target = options.output / f"distance_speed_{kind}.json"
        common.write(target, result)
        print(f"wrote {target}")
    return 0 if good else 6


if __name__ == "__main__":
    sys.exit(main())
