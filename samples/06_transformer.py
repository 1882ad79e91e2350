"""A transformer over tokens: attention and feed-forward parts go one by one, each a residual unit.

Made and trained here in half a minute: four pre-norm layers that say which of eight tokens a sequence holds most
often. Counting takes next to nothing of such a network, and the search finds that out; a harder task keeps more of it.

    python samples/06_transformer.py -o out
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lacoot_deploy as ld

TOKENS, LENGTH = 8, 24


def sequences(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids [N, 24] and the token that is most frequent [N]; sequences with two such are drawn anew."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, TOKENS, (3 * count, LENGTH))
    counts = np.stack([(ids == token).sum(1) for token in range(TOKENS)], axis=1)
    clear = (counts == counts.max(1, keepdims=True)).sum(1) == 1
    return ids[clear][:count], counts[clear][:count].argmax(1)


def train_transformer(path: Path, steps: int) -> None:
    """Train and export it with plain PyTorch."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

        def attend(self, x: torch.Tensor) -> torch.Tensor:
            parts = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
            return self.out(mixed.transpose(1, 2).flatten(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.attend(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class Transformer(nn.Module):
        def __init__(self, width: int = 48, depth: int = 4) -> None:
            super().__init__()
            self.embed = nn.Embedding(TOKENS, width)
            self.place = nn.Parameter(0.02 * torch.randn(LENGTH, width))
            self.layers = nn.Sequential(*(Layer(width, 4) for _ in range(depth)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, TOKENS)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.layers(self.embed(ids) + self.place)
            return self.head(self.norm(x).mean(1))

    torch.manual_seed(0)
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        ids, most = (torch.from_numpy(part) for part in sequences(64, seed=1000 + step))
        loss = nn.functional.cross_entropy(model(ids), most)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.onnx.export(
        model.eval(), (ids[:2],), path, input_names=["ids"], output_names=["scores"], dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("transformer"), help="folder for all that is made"
    )
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--max-drop", type=float, default=2.0, help="points that may be lost")
    arguments = parser.parse_args()
    out: Path = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    model, short = out / "transformer.onnx", out / "short.onnx"
    train_transformer(model, arguments.steps)
    for name, count, seed in (("calibration", 800, 1), ("test", 1000, 2)):
        ids, most = sequences(count, seed)
        np.savez(out / f"{name}.npz", ids=ids, labels=most)
    units = ld.inspect(model, granularity="unit").blocks
    print(f"{len(units)} residual units: {', '.join(unit.name for unit in units)}")
    try:
        result = ld.collapse(
            model,
            short,
            max_drop=arguments.max_drop,
            data=f"npz:{out / 'calibration.npz'}",
            granularity="unit",
        )
    except ld.LacootError as error:
        print(error)
        return error.exit_code
    compared = ld.compare(model, short, f"npz:{out / 'test.npz'}")
    assert compared.accuracy is not None
    print(f"gone: {', '.join(step.block for step in result.plan.steps)}")
    print(f"accuracy {compared.accuracy.a:.1f} -> {compared.accuracy.b:.1f} %")
    speed = ld.benchmark(model, short, options=ld.BenchOptions(min_time=2.0))
    print(f"{speed.verdict}: {speed.speedup:.2f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
