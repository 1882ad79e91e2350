"""ONNX Runtime as it behaves on a machine with CUDA, played on the CPU: what it is asked is recorded."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from lacoot_deploy.runtime.providers import CPU, CUDA

TENSORRT = "TensorrtExecutionProvider"

_REAL = onnxruntime.InferenceSession


class Value:
    """A tensor at a fixed address on a device."""

    def __init__(self, array: np.ndarray, device: str) -> None:
        self.array = array
        self.device = device

    def numpy(self) -> np.ndarray:
        """A copy on the host."""
        return self.array.copy()


class Binding:
    """What an input or output of a session is bound to."""

    def __init__(self) -> None:
        self.inputs: dict[str, Value] = {}
        self.outputs: dict[str, Value | str] = {}
        self.waited = 0

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        """A value that lies on the device."""
        self.inputs[name] = value

    def bind_output(self, name: str, device: str) -> None:
        """An output for which the runtime finds a place."""
        self.outputs[name] = device

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        """An output with a place of its own."""
        self.outputs[name] = value

    def get_outputs(self) -> list[Value]:
        """The outputs, in the order in which they were bound."""
        return [value for value in self.outputs.values() if isinstance(value, Value)]

    def clear_binding_outputs(self) -> None:
        """No output is bound any more."""
        self.outputs = {}

    def synchronize_outputs(self) -> None:
        """Wait for the device."""
        self.waited += 1


class Machine:
    """A pretended machine: its log, and which operators it leaves to the CPU.

    Attributes:
        sessions: Every session opened: providers with their options, and its configuration.
        runs: Every run: `host` with numpy arrays, or `bound`, with the id of its graph (None: captured).
        on_cpu: Operators that do not run on the device.
        captures: Whether capturing a graph works here.
    """

    def __init__(self, on_cpu: Iterable[str] = ()) -> None:
        self.sessions: list[SimpleNamespace] = []
        self.runs: list[SimpleNamespace] = []
        self.on_cpu = set(on_cpu)
        self.captures = True

    def installed(self, monkeypatch: Any) -> Machine:
        """In place of ONNX Runtime on this machine, until the test ends."""
        machine = self

        class Session:
            def __init__(
                self, content: Any, options: Any, providers: list[Any], enable_fallback: int
            ) -> None:
                named = [entry if isinstance(entry, tuple) else (entry, {}) for entry in providers]
                captured = any(v == "1" and "cuda_graph" in k for _, given in named for k, v in given.items())
                if captured and not machine.captures:
                    raise RuntimeError("This session cannot use the graph capture feature")
                self.real = _REAL(content, options, providers=[CPU])
                self.asked = [name for name, _ in named]
                record = {"providers": named, "fallback": enable_fallback, "captured": captured}
                machine.sessions.append(SimpleNamespace(**record))

            def get_providers(self) -> list[str]:
                return self.asked

            def get_provider_graph_assignment_info(self) -> list[Any]:
                found = []
                for graph in self.real.get_provider_graph_assignment_info():
                    for node in graph.get_nodes():
                        place = CPU if node.op_type in machine.on_cpu else self.asked[0]
                        found.append(SimpleNamespace(ep_name=place, get_nodes=lambda node=node: [node]))
                return found

            def io_binding(self) -> Binding:
                return Binding()

            def run(self, names: Any, feeds: Any) -> list[np.ndarray]:
                machine.runs.append(SimpleNamespace(kind="host", graph=None, outputs=()))
                return self.real.run(names, feeds)

            def run_with_iobinding(self, binding: Binding, options: Any) -> None:
                graph = None if options is None else options.get_run_config_entry("gpu_graph_id")
                feeds = {name: value.array for name, value in binding.inputs.items()}
                results = self.real.run(list(binding.outputs), feeds)
                for name, array in zip(list(binding.outputs), results, strict=True):
                    bound = binding.outputs[name]
                    if isinstance(bound, Value):
                        bound.array[...] = array
                    else:
                        binding.outputs[name] = Value(array, bound)
                places = tuple(id(value) for value in binding.get_outputs())
                devices = {value.device for value in (*binding.inputs.values(), *binding.get_outputs())}
                machine.runs.append(
                    SimpleNamespace(kind="bound", graph=graph, outputs=places, devices=devices)
                )

            def __getattr__(self, name: str) -> Any:
                return getattr(self.real, name)

        value = SimpleNamespace(ortvalue_from_numpy=lambda array, device, number: Value(array.copy(), device))
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "OrtValue", value)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        # The pool that all sessions of a process share must be made before its first session.
        monkeypatch.delattr(onnxruntime, "set_global_thread_pool_sizes", raising=False)
        for module in ("runtime.sessions", "runtime.providers", "bench.opener"):
            monkeypatch.setattr(f"lacoot_deploy.{module}.driver_problem", lambda: None)
        for module in ("runtime.sessions", "runtime.providers"):
            monkeypatch.setattr(f"lacoot_deploy.{module}.preload_cuda", lambda: None)
        return self
