"""Several models against one reference in one and the same run, so that their ratios can be held against each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lacoot_deploy.bench.answer import build_result, log_ratios
from lacoot_deploy.bench.options import DEFAULTS, BenchOptions
from lacoot_deploy.bench.process import ask
from lacoot_deploy.bench.protocol import ModelFile, Request, Response
from lacoot_deploy.bench.requests import feeds_file, model_file
from lacoot_deploy.bench.result import BenchResult
from lacoot_deploy.bench.statistics import Ratio, ratio_interval
from lacoot_deploy.runtime.options import AUTO, Runtime

REFERENCE = "a"


@dataclass(frozen=True)
class Series:
    """What one run showed of several models.

    Attributes:
        request: What was asked.
        response: What was measured, by name; the reference is `a`.
        files: The models by name.
        memory: What each took.
    """

    request: Request
    response: Response
    files: Mapping[str, ModelFile]
    memory: Mapping[str, Response]

    def result(self, name: str) -> BenchResult:
        """One model against the reference, as `bench` says it.

        Raises:
            KeyError: No model of that name was measured.
        """
        found = self.response.contestants
        chosen = {"a": found["a"], "a_again": found["a_again"], "b": found[name]}
        memory = {"a": self.memory.get(REFERENCE), "b": self.memory.get(name)}
        return build_result(
            self.request,
            self.response.model_copy(update={"contestants": chosen}),
            {"a": self.files[REFERENCE], "b": self.files[name]},
            {key: taken for key, taken in memory.items() if taken is not None},
        )

    def ratio(self, slower: str, faster: str) -> Ratio:
        """How many times as fast one model is as another, both of this run.

        Raises:
            KeyError: No model of one of the names was measured.
        """
        found = self.response.contestants
        pair = {"a": found[slower], "b": found[faster]}
        return ratio_interval(log_ratios(pair), seed=self.request.options.seed)


def bench_series(
    reference: Path,
    others: Mapping[str, Path],
    options: BenchOptions = DEFAULTS,
    *,
    runtime: Runtime = AUTO,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Series:
    """Measure the latency of several models and of a reference in interleaved turns of one run.

    Args:
        reference: The model that all are held against; it is measured twice, for the noise floor.
        others: The models by name; `a` and `a_again` are the reference's.
        options: How to measure; the time is that of all models together.
        runtime: Where they run.
        feeds: One array per input; None to generate them.
        progress: Called with rounds done and rounds in all.

    Raises:
        InputError: A model or the feeds are not usable, or the memory ran out.
        ProviderError: The provider does not run a model here.
    """
    with tempfile.TemporaryDirectory(prefix="lacoot-bench-") as folder:
        files = {REFERENCE: model_file(reference, Path(folder), "A")}
        files |= {name: model_file(path, Path(folder), name) for name, path in others.items()}
        request = Request(
            kind="latency",
            models={REFERENCE: files[REFERENCE], "a_again": files[REFERENCE], **files},
            runtime=runtime,
            options=options,
            feeds=feeds_file(feeds, Path(folder)),
        )
        response = ask(request, progress)
        memory = {}
        if options.memory:
            for name, file in files.items():
                memory[name] = ask(request.model_copy(update={"kind": "memory", "models": {"a": file}}))
    return Series(request, response, files, memory)
