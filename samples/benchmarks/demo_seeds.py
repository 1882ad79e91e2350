"""The demo over several seeds: does the penalty cost nothing, and does the healed network reach the control?

    python samples/benchmarks/demo_seeds.py --folder runs/demo -o samples/benchmarks/results/demo_seeds_cpu.json

For every seed, on the handwritten digits: dense without and with the penalty, cut by the plan that training recommends
(or by `--count` blocks), healed, and the network that is left trained from scratch, alone and with the plain dense
network as its teacher. All are judged on the same 359 test images. Finished runs are taken up again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import common

import lacoot_deploy as ld


def trained(folder: Path, *settings: str) -> Path:
    """The ONNX file of a run, trained unless it is there."""
    if not (folder / "model.onnx").is_file():
        ld.train(None, folder, overrides=settings, resume=(folder / "checkpoint.safetensors").is_file())
    return folder / "model.onnx"


def accuracy(reference: Path, model: Path) -> dict[str, Any]:
    """Accuracy on test images in percent, and the drop against the reference with its interval."""
    found = ld.compare(reference, model, "digits").accuracy
    assert found is not None
    return {"accuracy": found.b, "drop": found.drop_points, "ci95": list(found.ci95)}


def one_seed(seed: int, given: Any) -> dict[str, Any]:
    """All networks of one seed."""
    home = given.folder / f"seed-{seed}"
    common_settings = (f"seed={seed}", f"epochs={given.epochs}", "val_fraction=0.2", *given.set)
    plain = trained(home / "plain", *common_settings, "penalty=0")
    dense = trained(
        home / "penalty", *common_settings, f"penalty={given.penalty}", f"max_drop={given.max_drop}"
    )
    cut, plan = home / "cut.onnx", home / "plan.json"
    limit = (
        {} if given.count is None else {"count": given.count, "data": ld.DataOptions("digits", split="val")}
    )
    steps = ld.collapse(dense, cut, plan_out=plan, **limit).plan.steps
    gone = [step.block for step in steps]
    healed = home / "healed"
    if not (healed / "model.onnx").is_file():
        ld.heal_run(home / "penalty", plan, healed, overrides=(f"epochs={given.heal_epochs}",))
    without = f"without={json.dumps(gone)}"
    scratch = trained(home / "scratch", *common_settings, "penalty=0", without)
    taught = trained(home / "taught", *common_settings, "penalty=0", without, f"teacher={home / 'plain'}")
    files = {"plain": plain, "penalty": dense, "cut": cut, "healed": healed / "model.onnx", "scratch": scratch,
             "taught": taught}  # fmt: skip
    return {"seed": seed, "gone": gone, **{name: accuracy(plain, file) for name, file in files.items()}}


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where the training runs go")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--penalty", type=float, default=1.0)
    parser.add_argument("--max-drop", type=float, default=2.0, help="of the plan that training recommends")
    parser.add_argument("--count", type=int, help="blocks to remove, in place of that plan")
    parser.add_argument("--heal-epochs", type=int, default=10)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting of every training"
    )
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    rows = []
    for seed in range(given.seeds):
        rows.append(one_seed(seed, given))
        row = rows[-1]
        print(
            seed,
            row["gone"],
            {k: round(v["accuracy"], 2) for k, v in row.items() if isinstance(v, dict)},
            flush=True,
        )
        settings = {k: v for k, v in vars(given).items() if k not in ("folder", "output")}
        document = {
            "command": common.command(),
            "machine": common.machine(),
            "settings": settings,
            "rows": rows,
        }
        common.write(given.output, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
