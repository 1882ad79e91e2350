"""The command lines that give the same again: the options of a plan, of data and of a runtime as words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lacoot_deploy.data.options import ANY_TASK, DataOptions, portable
from lacoot_deploy.manifest import (
    DataRecord,
    HealRecord,
    LinearRecord,
    PlanOptions,
    RuntimeRecord,
    SearchRecord,
    TaskChoice,
)
from lacoot_deploy.manifest.evidence import said


def collapse_words(options: PlanOptions) -> list[str] | None:
    """Options of `collapse` that ask for a plan again; None where one command line cannot say it."""
    search, linear = options.search or SearchRecord(), options.linearise
    data, limit = options.data, dict(options.limit or {})
    if data is not None and (data.seed or 0) != (search.seed or 0):
        return None
    about = linear is not None and linear.what is not None
    if about and limit.keys() - {"blocks"}:
        return None
    words = limit_words(limit)
    if linear is not None:
        words += _linear_words(linear)
    if not about:
        words += _given(search, ("criterion", "search"))
    words += _given(search, ("repair", "form"))
    if search.refit is not None:
        words.append("--refit" if search.refit else "--no-refit")
    if search.granularity == "unit":
        words.append("--units")
    words += {"drop": ["--drop-private-io"], "renumber": ["--renumber"]}.get(search.private_io or "", [])
    words += _given(search, ("seed",))
    words += [] if data is None else data_words(data)
    words += [] if options.runtime is None else runtime_words(options.runtime)
    return [*words, "--no-probe"] if options.probe is False else words


def heal_words(record: HealRecord) -> list[str]:
    """Options of `heal` that ask for a healing again; how many samples there were to take is not recorded."""
    from dataclasses import asdict

    from lacoot_deploy.healing.options import HealOptions

    spec, _, split = portable(record.data or "DATA").partition(" [")
    words = ["--data", spec, *(["--split", split.rstrip("]")] if split else [])]
    standard = {**asdict(HealOptions()), "augment": [], "match": []}
    for name, value in record.options.items():
        if value is not None and value != standard.get(name):
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, _text(value)]
    return words


def limit_words(limit: Mapping[str, Any]) -> list[str]:
    """A limit as words."""
    words: list[str] = []
    for key, value in limit.items():
        option = f"--{key.replace('_', '-')}"
        words += [option] if value is True else [option, _text(value)]
    return words


def data_words(data: DataRecord) -> list[str]:
    """`--data` and its companions, all but the seed."""
    words = ["--data", data.spec or "DATA"]
    for option, value in (
        ("--split", data.split),
        ("--samples", data.limit),
        ("--mean", data.mean),
        ("--std", data.std),
        ("--size", None if data.size is None else f"{data.size[0]}x{data.size[1]}"),
    ):
        words += [] if value is None else [option, _text(value)]
    for name, axis in (data.sample_axis or {}).items():
        words += ["--sample-axis", f"{name}={axis}"]
    for name in data.shared or ():
        words += ["--shared", name]
    task = data.task or TaskChoice()
    words += [] if task.name is None else ["--task", task.name]
    words += [] if task.outputs is None else ["--outputs", _text(task.outputs)]
    return [*words, "--trust-labels"] if task.trust_labels else words


def runtime_words(runtime: RuntimeRecord) -> list[str]:
    """`--provider` and what goes with it."""
    words = _given(runtime, ("provider", "threads"))
    for key, value in (runtime.provider_options or {}).items():
        words += ["--provider-option", f"{key}={value}"]
    for library in runtime.custom_ops or ():
        words += ["--custom-ops", library]
    return words


def data_record(data: DataOptions) -> DataRecord:
    """Data options for a file that ships: of a path only the name stays."""
    task = TaskChoice(
        **said({name: getattr(data.task, name) for name in TaskChoice.model_fields}, vars(ANY_TASK))
    )
    given = vars(data) | {"spec": data.portable, "task": task if task.model_fields_set else None}
    return DataRecord(**said(given, {"sample_axis": {}, "shared": ()}))


def _linear_words(linear: LinearRecord) -> list[str]:
    words = [] if linear.what is None else ["--linearise", _text(linear.what)]
    words += limit_words(linear.limit or {})
    words += _given(linear, ("criterion", "search", "fit", "merge"))
    return [*words, "--inexact"] if linear.inexact else words


def _given(record: Any, names: Iterable[str]) -> list[str]:
    values = ((name, getattr(record, name)) for name in names)
    return [word for name, value in values if value is not None for word in (f"--{name}", _text(value))]


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    # Shorter where that loses nothing.
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
