"""The page of commands and options, made from the help texts.

python docs/cli_reference.py           # writes docs/cli.md
python docs/cli_reference.py --check   # exit code 4 if it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from lacoot_deploy_cli.main import COMMANDS, cli

PAGE = Path(__file__).resolve().parent / "cli.md"
HEAD = """# Commands and options

Made from the help texts by `docs/cli_reference.py`. What the commands are for stands in the
[README](../README.md#commands), what stays compatible in [stability](stability.md).
"""


def helped(command: click.Command, name: str, parent: click.Context | None = None) -> str:
    """A command's help at 80 columns."""
    names = ["-h", "--help"]
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=78, help_option_names=names
    )
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def page() -> str:
    """The whole page."""
    root = click.Context(cli, info_name="lacoot-deploy")
    parts = [HEAD, f"```text\n{helped(cli, 'lacoot-deploy')}\n```\n"]
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        parts.append(f"## {name}\n\n```text\n{helped(command, name, root)}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page, or with `--check` say whether it is out of date."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
    if not same:
        print("docs/cli.md is out of date: python docs/cli_reference.py")
    return 0 if same else 4


if __name__ == "__main__":
    sys.exit(main())
