"""Models ready to be timed: plain runs, and runs whose inputs and outputs stay on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from lacoot_deploy.bench.harness import Runner
from lacoot_deploy.errors import UsageError
from lacoot_deploy.runtime.messages import run_error
from lacoot_deploy.runtime.sessions import Session

_DEVICES = {"cuda": "cuda", "tensorrt": "cuda", "nvtensorrtrtx": "cuda"}


class PlainRunner:
    """Runs as most programs do: numpy arrays in, numpy arrays out."""

    def __init__(self, session: Session, feeds: Mapping[str, NDArray[Any]]) -> None:
        self._ort = session.ort
        self._feeds = dict(feeds)
        self._label = session.label

    def run(self) -> None:
        """Run once; any copies to and from the device are part of it."""
        try:
            self._ort.run(None, self._feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise run_error(self._label, error) from error

    def close(self) -> None:
        """Free the session."""
        self._ort = None


class BoundRunner:
    """Runs on inputs that lie on the device into outputs that stay there, at fixed addresses."""

    def __init__(self, session: Session, feeds: Mapping[str, NDArray[Any]]) -> None:
        import onnxruntime

        device = _DEVICES.get(session.provider, "cpu")
        self._ort = session.ort
        self._label = session.label
        self._binding = session.ort.io_binding()
        make = onnxruntime.OrtValue
        self._values = {name: make.ortvalue_from_numpy(array, device, 0) for name, array in feeds.items()}
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)
        for info in session.outputs:
            self._binding.bind_output(info.name, device)
        # The first run tells the shapes; from then on the outputs have a fixed place, as CUDA graphs need. A graph is
        # captured in a later run, so this one must not be part of it.
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", "-1")
        self._run(options)
        outputs = self._binding.get_outputs()
        self._binding.clear_binding_outputs()
        for info, value in zip(session.outputs, outputs, strict=True):
            self._binding.bind_ortvalue_output(info.name, value)

    def run(self) -> None:
        """Run once; returns when the device is done."""
        self._run(None)

    def close(self) -> None:
        """Free the session and its values."""
        self._binding = None
        self._values = {}
        self._ort = None

    def _run(self, options: Any) -> None:
        try:
            self._ort.run_with_iobinding(self._binding, options)
            self._binding.synchronize_outputs()
        except Exception as error:
            raise run_error(self._label, error) from error


def make_runner(session: Session, feeds: Mapping[str, NDArray[Any]], io_binding: bool) -> Runner:
    """A runner of the session on fixed feeds.

    Raises:
        UsageError: IO binding was asked for a model with inputs or outputs that are no numeric tensors.
    """
    if not io_binding:
        return PlainRunner(session, feeds)
    for what, infos in (("Input", session.inputs), ("Output", session.outputs)):
        odd = [info.name for info in infos if "(" in info.dtype or info.dtype == "str"]
        if odd:
            raise UsageError(
                f"{what} {odd[0]!r} of {session.label} is no numeric tensor, so it cannot be bound to a device."
            )
    return BoundRunner(session, feeds)
