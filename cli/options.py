"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

DATA_HELP = (
    "digits | cifar10:PATH | fashion-mnist:PATH | imagefolder:PATH | npz:PATH | python:module:function. "
    "An npz holds one array per model input under its name and optionally 'labels'."
)
PATH = click.Path(path_type=Path)


def output_options(function: _F) -> _F:
    """`--json`, `-v` and `-q`, which every command has."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors."),
        click.option("-v", "--verbose", count=True, help="Say more; twice: tracebacks too."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
    ):
        function = option(function)
    return function


def data_options(*, split: str, required: bool = False) -> Callable[[_F], _F]:
    """`--data` with the options that say how to read it; `split` is the default part of the source."""

    def wrap(function: _F) -> _F:
        for option in (
            click.option(
                "--seed", type=int, default=0, show_default=True, help="Seed of every random choice."
            ),
            click.option("--samples", type=click.IntRange(min=1), help="Use at most this many samples."),
            click.option(
                "--split",
                type=click.Choice(["train", "val", "test"]),
                default=split,
                show_default=True,
                help="Part of an image source to read.",
            ),
            click.option("--size", help="Image size as H or HxW, where the model has no manifest."),
            click.option("--std", help="Comma-separated std on the 0..1 scale, likewise."),
            click.option("--mean", help="Comma-separated mean on the 0..1 scale, likewise."),
            click.option("--data", "data", required=required, help=DATA_HELP),
        ):
            function = option(function)
        return function

    return wrap


def provider_options(function: _F) -> _F:
    """`--provider` and `--threads`."""
    for option in (
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads of ONNX Runtime."),
        click.option(
            "--provider",
            default="auto",
            show_default=True,
            help="Execution provider: auto, cpu, cuda, tensorrt, openvino, ...",
        ),
    ):
        function = option(function)
    return function


def parse_floats(text: str | None, name: str) -> list[float] | None:
    """Comma-separated numbers, or None."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
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


def split_names(text: str | None) -> list[str] | None:
    """Comma-separated names, or None; empty parts are dropped."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]
