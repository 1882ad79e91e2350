"""`lacoot-deploy doctor`."""

from __future__ import annotations

import click

from .options import Command, Output, output_group
from .render import echo, print_json, say, table


@click.command("doctor", cls=Command)
@output_group()
def command(out: Output) -> None:
    """Tell what this machine can do.

    Tries every execution provider of ONNX Runtime on a small model, lists versions and CUDA
    libraries, and says how to mend what is missing.

    \b
    Example:
      lacoot-deploy doctor
    """
    from lacoot_deploy.runtime.doctor import doctor

    with out.progress("trying providers"):
        found = doctor()
    if out.as_json:
        print_json(found)
        return
    table(
        [("package", "left"), ("version", "left")],
        [["python", found.python], *([name, version] for name, version in found.versions.items())],
    )
    for provider in found.providers:
        say(f"{provider.name}: {'works' if provider.works else provider.problem}")
    missing = [library for library in found.cuda_libraries if not library.found]
    if found.cuda_driver is not None:
        say(f"CUDA driver: {found.cuda_driver}")
    for library in missing:
        reason = (library.problem or "").removeprefix(f"{library.name}: ")
        say(f"CUDA library {library.name}: {reason}")
    say(f"`--provider auto` chooses {found.auto} here.")
    if out.verbose:
        echo(found.machine.model_dump_json(indent=2))
