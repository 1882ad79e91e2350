"""Opens the sessions of a measurement, all alike, and has what they are run on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lacoot_deploy.bench.harness import Runner
from lacoot_deploy.bench.protocol import ModelFile, Request
from lacoot_deploy.bench.runners import make_runner
from lacoot_deploy.errors import UsageError
from lacoot_deploy.runtime.feeds import check_feeds, check_size, generate_feeds, index_limits
from lacoot_deploy.runtime.libraries import driver_problem
from lacoot_deploy.runtime.providers import CUDA, full_name, short_name
from lacoot_deploy.runtime.sessions import Session, open_session

if TYPE_CHECKING:
    import onnx

NVIDIA = ("cuda", "tensorrt", "nvtensorrtrtx")
GRAPH_OPTIONS = {
    "cuda": "enable_cuda_graph",
    "tensorrt": "trt_cuda_graph_enable",
    "nvtensorrtrtx": "enable_cuda_graph",
}
"""What the option for CUDA graphs is called by each provider that has one."""


class Opener:
    """Opens the sessions of one request, all with the same options, and has its feeds.

    Attributes:
        options: How models are run.
        shared: Whether all sessions share one pool of threads.
        provider: Short name of the provider that runs the first model, and so all.
        why: Why that one.
        io_binding: Whether inputs and outputs stay on the device.
        feeds: What models are run on.
    """

    def __init__(self, request: Request) -> None:
        import onnxruntime

        self.request = request
        self.options = request.options
        self.shared = hasattr(onnxruntime, "set_global_thread_pool_sizes")
        if self.shared:
            onnxruntime.set_global_thread_pool_sizes(request.runtime.threads or 0, 1)
        self.provider = request.runtime.provider
        first = next(iter(request.models.values()))
        session = self.open(first)
        self.provider, self.why = session.provider, session.why
        self.io_binding = (
            session.provider in NVIDIA if self.options.io_binding is None else self.options.io_binding
        ) or self.options.cuda_graph
        self.feeds = self._feeds(session, first)

    def open(
        self, model: ModelFile, content: onnx.ModelProto | None = None, configure: Any = None
    ) -> Session:
        """A fresh session of a model, or of another model made from it, whose weights are in the same place."""
        options = self.options
        given = dict(self.request.runtime.provider_options)
        if options.cuda_graph:
            given[self._graph_option()] = "1"
        return open_session(
            model.path if content is None else content,
            replace(
                self.request.runtime,
                provider=self.provider,
                threads=None if self.shared else self.request.runtime.threads,
                provider_options=given,
            ),
            optimization=options.optimization,
            use_tf32=options.use_tf32,
            allow_cpu_nodes=options.allow_cpu_nodes,
            label=model.label,
            source=None if content is None else model.path,
            configure=lambda made: self._configure(made, model, configure),
        )

    def _graph_option(self) -> str:
        name = self.provider
        if name == "auto":
            import onnxruntime

            works = CUDA in onnxruntime.get_available_providers() and driver_problem() is None
            name = "cuda" if works else "cpu"
        option = GRAPH_OPTIONS.get(short_name(full_name(name)))
        if option is None:
            raise UsageError(f"There are no CUDA graphs on {name}; choose the provider cuda, or leave them.")
        return option

    def runner(self, model: ModelFile) -> Runner:
        """A fresh session of a model, ready to run on the feeds."""
        return make_runner(self.open(model), self.feeds, self.io_binding)

    def _configure(self, options: Any, model: ModelFile, further: Any) -> None:
        if model.source is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(model.source.resolve())
            )
        if self.shared:
            options.use_per_session_threads = False
        else:
            options.add_session_config_entry("session.force_spinning_stop", "1")
            # What is measured is what a user of ONNX Runtime gets.
            options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        if further is not None:
            further(options)

    def _feeds(self, session: Session, model: ModelFile) -> dict[str, NDArray[Any]]:
        wanted, file = self.options, self.request.feeds
        if file is not None:
            with np.load(file, allow_pickle=False) as archive:
                feeds = {name: archive[name] for name in archive.files}
            check_feeds(session.inputs, feeds, what=session.label)
            return feeds
        from lacoot_deploy.runtime.reading import read_model

        check_size(session.inputs, batch=wanted.batch, dims=wanted.dims, what=session.label)
        limits = index_limits(read_model(model.path))
        return generate_feeds(
            session.inputs, batch=wanted.batch, dims=wanted.dims, seed=wanted.seed, limits=limits
        )
