"""`compare`: two ONNX files on the same data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import InputError
from lacoot_deploy.files import sha256_file
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.userfunctions import load_function
from lacoot_deploy.workflow.data import samples_for, task_of

if TYPE_CHECKING:
    from lacoot_deploy.runtime.compare import CompareResult, Limits


def compare(
    a: str | Path,
    b: str | Path,
    data: DataOptions | str,
    *,
    limits: Limits | None = None,
    metric: str | None = None,
    runtime: Runtime = AUTO,
    batch_size: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
) -> CompareResult:
    """How model B's outputs differ from model A's on the same data.

    Limits that are exceeded are listed in the result's `violations`; its `require()` turns them into an error.

    Args:
        a: The reference; its manifest tells how images become inputs.
        b: The model in question.
        data: The samples; text as after `--data`.
        limits: What B may differ by.
        metric: A measure of the task such as `top-5`, or `module:function` of a user's metric (also as
            `python:module:function`), in place of the task's first measure.
        runtime: Where both run.
        batch_size: Samples per run.
        progress: Called with (done, total, what).

    Raises:
        InputError: A file cannot be used, the data does not fit, or the two signatures differ.
        ProviderError: The provider does not run a model here.
    """
    from lacoot_deploy.graph.model.io import model_file
    from lacoot_deploy.graph.model.training_mode import refuse_training
    from lacoot_deploy.manifest import read_manifest
    from lacoot_deploy.runtime.compare import compare_models
    from lacoot_deploy.runtime.reading import read_model, runnable
    from lacoot_deploy.runtime.sessions import open_session

    a, b = model_file(a), model_file(b)
    model, other = read_model(a), read_model(b)
    for path, one in ((a, model), (b, other)):
        refuse_training(one, path)
    manifest = read_manifest(model, path=a)
    data = DataOptions.of(data)
    task, function = task_of(manifest, data), None
    if metric is not None and ":" in metric:
        function = load_function(metric, "metric")
    elif metric is not None:
        task = replace(task, measure=metric)
    samples = samples_for(model, manifest, data)
    sessions = [
        open_session(runnable(path, one), runtime, label=str(path)) for path, one in ((a, model), (b, other))
    ]
    try:
        found = compare_models(
            sessions[0],
            sessions[1],
            samples,
            task=task,
            metric=function,
            limits=limits,
            batch_size=batch_size,
            progress=None if progress is None else lambda done, total: progress(done, total, "comparing"),
        )
    except MemoryError as error:
        raise InputError(
            f"Comparing {a} and {b} on batches of {batch_size} samples does not fit into memory; use a smaller --batch "
            f"or fewer --samples."
        ) from error
    # What a report tells by whether the figures belong to the files that it is given.
    found.a_sha256, found.b_sha256 = sha256_file(a), sha256_file(b)
    return found
