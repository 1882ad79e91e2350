"""Entry point: the command group, and how errors become one clear sentence and an exit code."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from lacoot_deploy import __version__
from lacoot_deploy.errors import LacootError
from lacoot_deploy.threads import waiting_threads_sleep

from .render import echo, printable, styled

COMMANDS = (
    "train",
    "export",
    "inspect",
    "measure",
    "collapse",
    "heal",
    "ship",
    "compare",
    "bench",
    "report",
    "doctor",
)


class LazyGroup(click.Group):
    """Finds a command in the module of its name, in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The named command, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, suggesting the nearest name when there is none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Commands: {', '.join(COMMANDS)}."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx) from error


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="Start with: lacoot-deploy inspect model.onnx",
)
@click.version_option(__version__, "-V", "--version", prog_name="lacoot-deploy")
def cli() -> None:
    """Make trained networks shallower and faster, and prove it.

    Finds the residual blocks of an ONNX model, tells which can go, deletes them, repairs what
    their removal breaks, and measures what it cost in accuracy and gained in latency.
    """


def run(args: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; every error is one message on stderr."""
    argv = list(sys.argv[1:] if args is None else args)
    try:
        result: Any = cli.main(args=argv, prog_name="lacoot-deploy", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        context = error.ctx
        if context is not None and context.command is not cli:
            echo(f"Try '{context.command_path} --help'.", err=True)
        _say(error.format_message())
        return 2
    except click.ClickException as error:
        _say(error.format_message())
        return 2
    except click.exceptions.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        _say(str(error) or "Interrupted.")
        return 130
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`): nothing more can be said there, also not at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except LacootError as error:
        _trace(argv)
        _say(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        _trace(argv)
        _say(f"This needs the package {error.name}, which is not installed: pip install lacoot-deploy.")
        return 3
    except MemoryError:
        _trace(argv)
        _say("There is not enough memory for this model or data; give fewer samples or a smaller model.")
        return 3
    except OSError as error:
        # A file that changed or vanished while it was read, a full disk behind stdout.
        _trace(argv)
        where = "" if error.filename is None else f"{error.filename}: "
        _say(f"{where}{error.strerror or error}.")
        return 3
    except Exception as error:
        _trace(argv)
        _say(f"Unexpected {type(error).__name__}: {error} (run again with -vv for the traceback).")
        return 1


def _trace(argv: Sequence[str]) -> None:
    if any(arg == "-vv" or arg == "-vvv" for arg in argv) or sum(a in ("-v", "--verbose") for a in argv) > 1:
        traceback.print_exc()


def _say(message: str) -> None:
    message = printable(message)
    echo(f"{styled('error:', fg='red', bold=True)} {message}", err=True)


def main() -> None:
    """Console script."""
    # A graph of thousands of nodes is millions of small objects, none of them garbage: look for cycles less often.
    gc.set_threshold(200_000, 50, 50)
    waiting_threads_sleep()
    for stream in (sys.stdout, sys.stderr):
        # A file's name need not be text.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code = run()
    # The process ends: what is still held is given back at once, not searched for cycles first.
    gc.freeze()
    sys.exit(code)
