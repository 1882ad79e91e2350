"""Fine-tune from pre-trained weights: a network that was trained without the penalty learns with it for a few epochs.

The weights are a local file, safetensors or a checkpoint of tensors alone. Without --weights the sample first makes
some.

    python samples/04_finetune.py -o out
    python samples/04_finetune.py --model torchvision:resnet18 --weights resnet18.safetensors \
        --data imagefolder:photos --size 224 -o out
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import lacoot_deploy as ld


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("finetune"), help="folder for all that is made"
    )
    parser.add_argument("--model", default="digits-resnet")
    parser.add_argument("--weights", type=Path, help="a local file of weights")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--size", type=int, help="side of the images")
    parser.add_argument("--epochs", type=int, default=12, help="of fine-tuning")
    arguments = parser.parse_args()
    out: Path = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "tuned", ignore_errors=True)
    common = [f"model={arguments.model}", f"data={arguments.data}"]
    if arguments.size is not None:
        common.append(f"size={arguments.size}")
    weights = arguments.weights
    if weights is None:
        shutil.rmtree(out / "pretrained", ignore_errors=True)
        plain = ld.train(
            None, out / "pretrained", overrides=(*common, "penalty=0", f"epochs={arguments.epochs}")
        )
        print(f"pre-trained: {plain.val_accuracy:.2f} % of the validation images")
        weights = Path(plain.checkpoint)
    # A smaller learning rate than from scratch, so that what is known is kept.
    settings = (
        *common,
        f"weights={weights}",
        "penalty=3",
        f"epochs={arguments.epochs}",
        "lr=0.03",
        "max_drop=2",
    )
    tuned = ld.train(None, out / "tuned", overrides=settings)
    print(f"fine-tuned: {tuned.val_accuracy:.2f} % of the validation images")
    if tuned.plan is None:
        print("No block can go within 2 points; fine-tune for longer or with a larger penalty.")
        return 0
    result = ld.collapse(tuned.model, out / "short.onnx")
    confirmed = result.plan.evidence.confirming
    print(
        f"{len(result.plan.steps)} blocks gone; {confirmed.dense.accuracy:.2f} -> "
        f"{confirmed.collapsed.accuracy:.2f} % of the images that confirmed it"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
