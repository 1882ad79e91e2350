"""ONNX Runtime sessions that run where they were asked to, or say why they cannot."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lacoot_deploy.data.types import InputInfo
from lacoot_deploy.errors import InputError, LacootError, ProviderError, UsageError
from lacoot_deploy.runtime.feeds import check_feeds
from lacoot_deploy.runtime.libraries import driver_problem
from lacoot_deploy.runtime.messages import load_error, run_error
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.runtime.placement import Placement, placements, shape_arithmetic_nodes
from lacoot_deploy.runtime.providers import CPU, CUDA, explain, full_name, preload_cuda, quiet, short_name
from lacoot_deploy.runtime.reading import is_ort

if TYPE_CHECKING:
    import onnx

OPTIMIZATIONS = ("none", "basic", "extended", "all")

_TYPES = {
    "float": "float32",
    "double": "float64",
    "string": "str",
    **{name: name for name in ("float16", "bfloat16", "bool")},
    **{f"{kind}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}

_PROTOBUF_LIMIT = 2**31 - 1


class Session:
    """A model loaded into ONNX Runtime.

    Attributes:
        label: What messages call the model.
        inputs: Its inputs; initializers that may be overridden are not among them.
        outputs: Its outputs; the dtype of a sequence or map is ONNX Runtime's own name for it.
        provider: Short name of the provider that runs it, such as `cpu` or `cuda`.
        why: One sentence on why that provider.
        placement: Every node with the provider that runs it, as far as ONNX Runtime tells.
        creation_seconds: What loading, optimising and placing took.
        configured: The function that completed its options.
        ort: The `onnxruntime.InferenceSession`.
    """

    def __init__(
        self,
        ort: Any,
        *,
        label: str,
        provider: str,
        why: str,
        placement: tuple[Placement, ...],
        seconds: float,
    ) -> None:
        self.ort = ort
        self.label = label
        self.provider = provider
        self.why = why
        self.placement = placement
        self.creation_seconds = seconds
        self.configured: Any = None
        self.inputs = tuple(_info(value) for value in ort.get_inputs())
        self.outputs = tuple(_info(value) for value in ort.get_outputs())

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run the model once.

        Args:
            feeds: One array per input.
            outputs: Names of the outputs wanted; None for all.

        Returns:
            The outputs by name; arrays, or ONNX Runtime's own objects where an output is a sequence or a map.

        Raises:
            InputError: The feeds do not fit, an output does not exist, or the run failed (memory included).
        """
        check_feeds(self.inputs, feeds, what=self.label)
        names = [info.name for info in self.outputs] if outputs is None else list(outputs)
        unknown = sorted(set(names) - {info.name for info in self.outputs})
        if unknown:
            has = ", ".join(info.name for info in self.outputs)
            raise InputError(f"{self.label} has no output {unknown[0]!r}; it has {has}.")
        try:
            values = self.ort.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise run_error(self.label, error, feeds) from error
        return dict(zip(names, values, strict=True))

    def fallback_nodes(self) -> tuple[Placement, ...]:
        """Nodes on the CPU although another provider was asked for, shape arithmetic left out."""
        if self.provider == "cpu":
            return ()
        return tuple(p for p in self.placement if p.provider == CPU and not p.shape_arithmetic)


def open_session(
    model: onnx.ModelProto | Path | str,
    runtime: Runtime = AUTO,
    *,
    optimization: str = "all",
    use_tf32: bool | None = False,
    allow_cpu_nodes: bool = True,
    source: Path | None = None,
    label: str | None = None,
    configure: Callable[[Any], None] | None = None,
) -> Session:
    """Load a model so that it runs on the wanted provider.

    Args:
        model: The model, or the path of its file. Models over 2 GB work from the path.
        runtime: Where it runs.
        optimization: ONNX Runtime's graph optimisations: `none`, `basic`, `extended` or `all`.
        use_tf32: Whether CUDA may round float32 to TF32 in matrix products; None for ONNX Runtime's default (yes). Off
            here, since outputs that are compared should not differ by rounding; on only where speed is measured.
        allow_cpu_nodes: Whether nodes beyond shape arithmetic may fall back to the CPU on another provider.
        source: Where a ModelProto with external data was read from (its file or folder).
        label: What messages call the model; by default its path or graph name.
        configure: A function that is given the `onnxruntime.SessionOptions` last, for what the above does not cover.

    Raises:
        InputError: The model is missing, malformed or holds what ONNX Runtime cannot run.
        ProviderError: The provider does not exist or does not really run the model here.
        UsageError: An option has no such value.
    """
    import onnxruntime

    quiet()
    label = label or (
        f"{model}" if isinstance(model, (Path, str)) else f"The model {model.graph.name or ''}".strip()
    )
    options = _options(onnxruntime, runtime, optimization, label)
    content = _content(model, options, source, label)
    if configure is not None:
        configure(options)

    def attempt(full: str) -> Session:
        entry: Any = full
        merged = {str(k): str(v) for k, v in runtime.provider_options.items()}
        if full == CUDA and use_tf32 is not None:
            merged["use_tf32"] = str(int(use_tf32))
        if merged:
            entry = (full, merged)
        providers = [entry] if full == CPU else [entry, CPU]
        started = time.perf_counter()
        # Without this ONNX Runtime prints to stdout and silently retries on the CPU when a provider fails.
        ort = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
        seconds = time.perf_counter() - started
        shape_nodes = frozenset[str]() if full == CPU else _shape_nodes(model)
        placement = placements(ort, shape_nodes)
        return Session(
            ort, label=label, provider=short_name(full), why="", placement=placement, seconds=seconds
        )

    if runtime.provider == "auto":
        session = _auto(attempt, label, onnxruntime.get_available_providers())
    else:
        session = _exactly(full_name(runtime.provider), attempt, label, allow_cpu_nodes)
    # What it was configured with may hold arrays that the session reads.
    session.configured = configure
    return session


def _auto(attempt: Any, label: str, available: Sequence[str]) -> Session:
    if CUDA in available and driver_problem() is not None:
        why = "the CPU, because no NVIDIA driver was found"
    elif CUDA in available:
        try:
            session: Session = _exactly(CUDA, attempt, label, allow_cpu_nodes=True)
        except ProviderError as error:
            why = f"the CPU, because CUDA does not work here: {error}"
        else:
            session.why = "CUDA, which runs the model here"
            return session
    else:
        why = "the CPU, because this ONNX Runtime was built without CUDA"
    session = _exactly(CPU, attempt, label, allow_cpu_nodes=True)
    session.why = why
    return session


def _exactly(full: str, attempt: Any, label: str, allow_cpu_nodes: bool) -> Session:
    import onnxruntime

    short = short_name(full)
    if full != CPU:
        if full not in onnxruntime.get_available_providers():
            raise _provider_error(full, label)
        if full == CUDA or "ensor" in full:
            preload_cuda()
    try:
        session: Session = attempt(full)
    except LacootError:
        raise
    except Exception as error:
        if full == CPU:
            raise load_error(label, error) from error
        # Which of the two is at fault? If the CPU loads the model, the provider is.
        try:
            attempt(CPU)
        except Exception as cpu_error:
            raise load_error(label, cpu_error) from error
        raise _provider_error(full, label, str(error)) from error
    on_it = [p for p in session.placement if p.provider == full]
    if full not in session.ort.get_providers() or (full != CPU and session.placement and not on_it):
        raise _provider_error(full, label)
    session.why = f"{short}, as asked for"
    fallen = session.fallback_nodes()
    if fallen and not allow_cpu_nodes:
        names = ", ".join(f"{p.node or 'unnamed'} ({p.op})" for p in fallen[:5])
        more = f" and {len(fallen) - 5} more" if len(fallen) > 5 else ""
        raise ProviderError(
            f"{label} does not run on {short} alone: {len(fallen)} of {len(session.placement)} nodes fall back to the "
            f"CPU: {names}{more}. Allow CPU nodes to measure it nevertheless."
        )
    return session


def _provider_error(full: str, label: str, error: str | None = None) -> ProviderError:
    reason, mend = explain(full, error)
    return ProviderError(f"{label} cannot run on {short_name(full)}: {reason}. To mend it: {mend}.")


def _options(onnxruntime: Any, runtime: Runtime, optimization: str, label: str) -> Any:
    level = onnxruntime.GraphOptimizationLevel
    levels = {
        "none": level.ORT_DISABLE_ALL,
        "basic": level.ORT_ENABLE_BASIC,
        "extended": level.ORT_ENABLE_EXTENDED,
        "all": level.ORT_ENABLE_ALL,
    }
    if optimization not in levels:
        raise UsageError(f"There is no optimisation {optimization!r}; use one of {', '.join(levels)}.")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = levels[optimization]
    options.log_severity_level = 4
    if runtime.threads is not None:
        options.intra_op_num_threads = runtime.threads
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Threads that wait must not take the processor from those who would let them go on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for library in runtime.custom_ops:
        try:
            options.register_custom_ops_library(str(library))
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise load_error(f"The operators in {library} for {label}", error) from error
    return options


def _content(
    model: onnx.ModelProto | Path | str, options: Any, source: Path | None, label: str
) -> str | bytes:
    if isinstance(model, (Path, str)):
        if not Path(model).is_file():
            raise InputError(f"{model} does not exist or is no file; give the path of an ONNX model.")
        return str(model)
    if source is not None:
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder.resolve())
        )
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise InputError(
            f"{label} is larger than 2 GB in memory; save it with external data and give its path."
        )
    serialized: bytes = model.SerializeToString()
    return serialized


def _shape_nodes(model: onnx.ModelProto | Path | str) -> frozenset[str]:
    if isinstance(model, (Path, str)):
        if is_ort(Path(model)):
            return frozenset()
        import onnx

        model = onnx.load(str(model), load_external_data=False)
    return shape_arithmetic_nodes(model)


def _info(value: Any) -> InputInfo:
    match = re.fullmatch(r"tensor\((\w+)\)", value.type)
    dtype = _TYPES.get(match.group(1), value.type) if match else value.type
    shape = tuple(
        d if isinstance(d, str) else None if d is None or d < 0 else int(d) for d in value.shape or ()
    )
    return InputInfo(name=value.name, shape=shape, dtype=dtype)
