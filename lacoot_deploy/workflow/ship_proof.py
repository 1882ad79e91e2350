"""Every shipped file run in a fresh process, by ONNX Runtime and where it is installed by OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lacoot_deploy.progress import Progress
from lacoot_deploy.shipping.account import Line
from lacoot_deploy.shipping.proof import Prover, save_arrays
from lacoot_deploy.workflow.ship_measures import Judged, answers, note_fallbacks

SAMPLES, EXPECTED = "samples.npz", "expected.npz"
"""What files are checked by: a few inputs, and what every file answered to them."""


def prove(lines: Sequence[Line], folder: Path, judged: Judged, scratch: Path, told: Progress) -> None:
    """Run every file of the folder apart from this process, and keep what it answers beside it.

    A file that ONNX Runtime does not run in a fresh process is taken out of the folder.
    """
    shown = judged.shown()
    place = scratch / "proof"
    place.mkdir()
    prover = Prover(place, shown.feeds)
    kept = {}
    for number, line in enumerate(lines):
        told(number, len(lines), "proving files in fresh processes")
        if line.file is None:
            continue
        path = folder / line.file
        expected = answers(path, judged, shown)
        proof = prover.onnxruntime(path, expected)
        if not proof.runs:
            line.verdict, line.reason = (
                "failed",
                f"in a fresh process ONNX Runtime does not run it: {proof.reason}",
            )
            for name in (line.file, *line.beside):
                (folder / name).unlink()
            line.file, line.beside = None, []
            continue
        line.proven.append("ONNX Runtime on the CPU, in a fresh process")
        second = prover.openvino(path, expected)
        if second.runs:
            line.proven.append(f"OpenVINO on the CPU (relative RMS {second.drift:.2g} from ONNX Runtime)")
        else:
            line.unproven.append(f"not proven with OpenVINO: {second.reason}")
        note_fallbacks(line, folder, judged, place)
        kept.update({f"{line.file}|{name}": values for name, values in expected.items()})
    told(len(lines), len(lines), "proving files in fresh processes")
    save_arrays(folder / SAMPLES, shown.feeds)
    save_arrays(folder / EXPECTED, kept)
