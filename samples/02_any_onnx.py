"""Any ONNX file, no training: a model and a few hundred samples in, a shorter model out.

Without --model it first makes one that knows nothing of lacoot-deploy: a residual network trained and exported by plain
PyTorch on handwritten digits.

    python samples/02_any_onnx.py -o out
    python samples/02_any_onnx.py --model model.onnx --data npz:calibration.npz --max-drop 1 -o out
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import lacoot_deploy as ld


def someone_elses_model(folder: Path, epochs: int) -> tuple[Path, str, str]:
    """An ONNX file with data to choose by and data to judge by, as another project would hand them over."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.second(torch.relu(self.first(x))))

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images))
    train, choose, test = order[:1000], order[1000:1400], order[1400:]
    blocks = [Block(16) for _ in range(6)]
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )
    steps = epochs * len(train) // 50
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = train[torch.randint(len(train), (50,))]
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    path = folder / "model.onnx"
    torch.onnx.export(
        model, (images[:2],), path, input_names=["image"], output_names=["scores"], dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
    )  # fmt: skip
    for name, part in (("calibration", choose), ("test", test)):
        np.savez(folder / f"{name}.npz", image=images[part].numpy(), labels=labels[part].numpy())
    return path, f"npz:{folder / 'calibration.npz'}", f"npz:{folder / 'test.npz'}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("any-onnx"), help="folder for all that is made"
    )
    parser.add_argument("--model", type=Path, help="an ONNX file")
    parser.add_argument("--data", help="samples to choose by, such as npz:calibration.npz")
    parser.add_argument("--test", help="samples to judge by; those to choose by if not given")
    parser.add_argument("--max-drop", type=float, default=2.0, help="points that may be lost")
    parser.add_argument("--epochs", type=int, default=15, help="of the model made here")
    arguments = parser.parse_args()
    out: Path = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    if arguments.model is None:
        model, data, test = someone_elses_model(out, arguments.epochs)
    else:
        model, data, test = arguments.model, arguments.data, arguments.test or arguments.data
        if data is None:
            parser.error("--model needs --data: samples to fit repairs on and to choose by.")

    for block in ld.inspect(model).blocks:
        print(f"{block.name}: {block.macs} multiply-adds, {'can go' if block.collapsible else block.reason}")
    try:
        result = ld.collapse(model, out / "short.onnx", max_drop=arguments.max_drop, data=data)
    except ld.LacootError as error:
        print(error)
        return error.exit_code
    print(f"gone: {', '.join(step.block for step in result.plan.steps)}")
    found = ld.compare(model, out / "short.onnx", test)
    if found.accuracy is not None:
        print(f"accuracy {found.accuracy.a:.2f} -> {found.accuracy.b:.2f} %")
    print(f"predictions agree in {found.agreement:.2f} %")
    speed = ld.benchmark(model, out / "short.onnx", options=ld.BenchOptions(min_time=2.0))
    print(f"{speed.verdict}: {speed.speedup:.2f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
