"""Groups of options that commands share: each hands the command one object, and stands under headings in `--help`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lacoot_deploy.progress import Progress

from .live import progress
from .render import note, print_json

if TYPE_CHECKING:
    from lacoot_deploy.bench.options import BenchOptions
    from lacoot_deploy.data.options import DataOptions
    from lacoot_deploy.runtime.options import Runtime

_F = TypeVar("_F", bound=Callable[..., Any])
Values = Mapping[str, Any]
"""What a command line says, by the names of the parameters."""

DATA_HELP = (
    "digits | cifar10:PATH | fashion-mnist:PATH | imagefolder:PATH | npz:PATH | python:module:function. "
    "An npz holds one array per model input under its name and optionally 'labels', or 'labels.NAME' for several."
)
TASK_HELP = (
    "What the model is for: classification, multilabel, regression, segmentation, tokens, embedding, detection or "
    "denoising, with :MEASURE behind it if you like; or python:module:object.  [default: found from model and labels]"
)
AXIS_HELP = "The axis that counts samples in an input, counted from 0, where it is not the first."
SHARED_HELP = "An input without a sample axis, given whole to every run."
PATH = click.Path(path_type=Path)


class Headed(click.Option):
    """An option that stands under a heading."""

    def __init__(self, heading: str, *names: str, **attributes: Any) -> None:
        super().__init__(names, **attributes)
        self.heading = heading


class Command(click.Command):
    """A command whose help shows its options under headings, in the order in which they are declared."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings; those without one stand in the last group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                heading = getattr(parameter, "heading", list(groups)[-1] if groups else "Options")
                groups.setdefault(heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def declared(*options: click.Parameter) -> Callable[[_F], _F]:
    """Options that the command gets one by one."""

    def wrap(function: _F) -> _F:
        function.__dict__.setdefault("__click_params__", []).extend(reversed(options))
        return function

    return wrap


def group(into: str, build: Callable[[Values], Any], *options: Headed) -> Callable[[_F], _F]:
    """Options that the command gets as one object, its keyword `into`.

    Args:
        into: The keyword.
        build: Makes the object of all that the command line says.
        options: The options, in the order of the help.
    """

    def wrap(function: _F) -> _F:
        @functools.wraps(function)
        def wrapped(**values: Any) -> Any:
            made = build(click.get_current_context().params)
            for one in options:
                values.pop(str(one.name))
            return function(**values, **{into: made})

        return declared(*options)(wrapped)  # type: ignore[return-value]

    return wrap


@dataclass(frozen=True)
class Output:
    """How a command speaks: `--json`, `-v` and `-q`."""

    as_json: bool
    verbose: int
    quiet: bool

    def progress(self, what: str = "working") -> AbstractContextManager[Progress]:
        """Context that yields a function (done, total, what)."""
        return progress(quiet=self.quiet, what=what)

    def note(self, *sentences: str) -> None:
        """Sentences for the reader on stderr."""
        for text in sentences:
            note(text, quiet=self.quiet)

    def result(self, document: Any, show: Callable[[Any], None], *, notes: tuple[str, ...] = ()) -> None:
        """One JSON document on stdout, or the result for reading with its notes."""
        if self.as_json:
            print_json(document)
            return
        show(document)
        self.note(*notes)


_OUTPUT = (
    Headed("Output", "--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
    Headed("Output", "-v", "--verbose", count=True, help="Say more; twice: tracebacks too."),
    Headed("Output", "-q", "--quiet", is_flag=True, help="Say nothing but results and errors."),
)


def output_group(*options: Headed) -> Callable[[_F], _F]:
    """`--json`, `-v` and `-q`, which every command has, as an `Output`; before them options handed over one by one."""
    made = group(
        "out", lambda values: Output(values["as_json"], values["verbose"], values["quiet"]), *_OUTPUT
    )
    return lambda function: declared(*options)(made(function))


def written(*names: str, **attributes: Any) -> Headed:
    """An option that names a file to write."""
    return Headed("Output", *names, type=PATH, **attributes)


def data_group(*, split: str, required: bool = False) -> Callable[[_F], _F]:
    """`--data` with the options that say how to read it, as `DataOptions`; `split` is the default part."""
    return group(
        "data",
        _data,
        Headed("Data", "--data", "data", required=required, metavar="SOURCE", help=DATA_HELP),
        Headed("Data", "--mean", help="Comma-separated mean on the 0..1 scale, where there is no manifest."),
        Headed("Data", "--std", help="Comma-separated std on the 0..1 scale, likewise."),
        Headed("Data", "--size", help="Image size as H or HxW, likewise."),
        Headed(
            "Data",
            "--split",
            type=click.Choice(["train", "val", "test"]),
            default=split,
            show_default=True,
            help="Part of an image source to read.",
        ),
        Headed("Data", "--samples", type=click.IntRange(min=1), help="Use at most this many samples."),
        Headed("Data", "--seed", type=int, default=0, show_default=True, help="Seed of every random choice."),
        Headed("Data", "--sample-axis", multiple=True, metavar="INPUT=AXIS", help=AXIS_HELP),
        Headed("Data", "--shared", multiple=True, metavar="INPUT", help=SHARED_HELP),
        Headed("Task", "--task", metavar="NAME", help=TASK_HELP),
        Headed("Task", "--outputs", metavar="NAMES", help="Judge by these outputs alone (comma-separated)."),
        Headed("Task", "--trust-labels", is_flag=True, help="Go on with labels that the model cannot tell."),
    )


def _data(values: Values) -> DataOptions | None:
    if values["data"] is None:
        return None
    from lacoot_deploy.data.options import DataOptions, TaskOptions

    axes = parse_pairs(values["sample_axis"], "--sample-axis")
    if not all(axis.isdigit() for axis in axes.values()):
        raise click.BadParameter("the axis must be a number.", param_hint="--sample-axis")
    return DataOptions(
        spec=values["data"],
        split=values["split"],
        limit=values["samples"],
        seed=values["seed"],
        mean=parse_floats(values["mean"], "--mean"),
        std=parse_floats(values["std"], "--std"),
        size=parse_size(values["size"]),
        task=TaskOptions(values["task"], split_names(values["outputs"]), values["trust_labels"]),
        sample_axis={name: int(axis) for name, axis in axes.items()},
        shared=values["shared"],
    )


def runtime_group() -> Callable[[_F], _F]:
    """Where networks run, as a `Runtime`."""
    return group(
        "runtime",
        _runtime,
        Headed(
            "Runtime",
            "--provider",
            default="auto",
            show_default=True,
            help="Execution provider: auto, cpu, cuda, tensorrt, openvino, ...",
        ),
        Headed(
            "Runtime",
            "--provider-option",
            "provider_options",
            multiple=True,
            metavar="NAME=VALUE",
            help="Option for the provider.",
        ),
        Headed("Runtime", "--threads", type=click.IntRange(min=1), help="CPU threads of ONNX Runtime."),
        Headed(
            "Runtime",
            "--custom-ops",
            multiple=True,
            metavar="LIBRARY",
            help="Shared library with operators of your own.",
        ),
    )


def _runtime(values: Values) -> Runtime:
    from lacoot_deploy.runtime.options import Runtime

    return Runtime(
        values["provider"],
        values["threads"],
        parse_pairs(values["provider_options"], "--provider-option"),
        tuple(values["custom_ops"]),
    )


def bench_group(*options: Headed, switch: bool = False) -> Callable[[_F], _F]:
    """How latency is measured, as `BenchOptions`: `--min-time`, `--batch`, and what else a command has of them.

    Args:
        options: What else it has.
        switch: Whether `--bench` asks for it; without it the command gets None.
    """
    asked = [Headed("Measuring", "--bench", is_flag=True, help="Measure latency as well.")] if switch else []
    return group(
        "timing",
        _bench,
        *asked,
        Headed(
            "Measuring",
            "--min-time",
            type=float,
            default=8.0,
            show_default=True,
            help="Seconds of timed runs of each pair.",
        ),
        Headed("Measuring", "--batch", type=click.IntRange(min=1), help="Samples in one run."),
        *options,
    )


def _bench(values: Values) -> BenchOptions | None:
    if not values.get("bench", True):
        return None
    from dataclasses import fields

    from lacoot_deploy.bench.options import BenchOptions

    given = {entry.name: values[entry.name] for entry in fields(BenchOptions) if entry.name in values}
    if "dims" in given:
        given["dims"] = parse_dims(values)
    return BenchOptions(**given)


def dims_group(meaning: str = "Size of a free dimension where times are measured.") -> Callable[[_F], _F]:
    """`--dim`, as the sizes by name."""
    return group(
        "dims",
        parse_dims,
        Headed("Data", "--dim", "dims", multiple=True, metavar="NAME=N", help=meaning),
    )


def parse_dims(values: Values) -> dict[str, int]:
    """What `--dim` says."""
    try:
        return {key: int(value) for key, value in parse_pairs(values["dims"], "--dim").items()}
    except ValueError:
        raise click.BadParameter("the value must be a number.", param_hint="--dim") from None


def parse_pairs(values: tuple[str, ...], name: str) -> dict[str, str]:
    """`NAME=VALUE` as a mapping."""
    pairs = dict(value.partition("=")[::2] for value in values)
    if any(not key or not value for key, value in pairs.items()):
        raise click.BadParameter("give NAME=VALUE.", param_hint=name)
    return pairs


def parse_floats(text: str | None, name: str) -> tuple[float, ...] | None:
    """Comma-separated numbers, or None."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no comma-separated list of numbers.", param_hint=name
        ) from None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """An image size as (height, width), or None."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise click.BadParameter(f"{text!r} is no size; give H or HxW.", param_hint="--size")
    return numbers[0], numbers[-1]


def split_names(text: str | None) -> tuple[str, ...] | None:
    """Comma-separated names, each once, or None; empty parts are dropped."""
    if text is None:
        return None
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
