"""The README and the pages of docs/; their blocks of commands and Python, run in this very process."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((REPOSITORY / "docs").rglob("*.md")),
    ]
}

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, whether it takes long or cannot run in a test, and its text."""

    kind: str
    slow: bool
    runs: bool
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of commands and Python of a page; those that the README has as well run with the README."""
    readme = {text for _, text in FENCE.findall(PAGES["README.md"])}
    found = []
    for info, text in FENCE.findall(PAGES[page]):
        kind, *words = info.split() or [""]
        if kind in ("sh", "python") and (page == "README.md" or text not in readme):
            assert set(words) <= {"slow", "no-run"}, f"{page}: what does {info!r} mean?"
            found.append(Block(kind, "slow" in words, "no-run" not in words, text))
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of a block, continued lines joined and comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def shorter(words: list[str]) -> list[str]:
    """The command, told to be quick where a reader would wait."""
    if words[:1] == ["train"]:
        # Enough to be above guessing, without which no label is believed; what the page itself says counts last.
        quick = ["batch_size=32", "warmup=0.2", "max_drop=100"]
        written = any(word.endswith(".toml") for word in words)
        quick += ["epochs=8"] if written else ["epochs=2", "limit=800", "penalty=1"]
        if "--heal" in words:
            quick = ["epochs=1"]
        return ["train", *(word for setting in quick for word in ("--set", setting)), *words[1:]]
    if words[:1] in (["bench"], ["ship"]):
        return [*words, "--min-time", "0.3"]
    if words[:1] == ["heal"] or "--heal" in words:
        return [*words, "--steps", "10"]
    # Timing every point of a curve anew is not what a page's test is about.
    return [word for word in words if word != "--bench"]


TRAINING = "lacoot-deploy train -o runs/digits"
"""What a page's folder holds the outcome of before the page begins, so that no page trains it again."""


def run_command(words: list[str]) -> None:
    """Run one command of ours in the working folder; anything but exit code 0 is a failure."""
    from lacoot_deploy_cli.main import run

    assert words[0] == "lacoot-deploy", f"only commands of ours run in a test, not {words[0]!r}: say no-run"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run(shorter(words[1:]))
    assert code == 0, f"{shlex.join(words)}: exit code {code}\n{said.getvalue()[-2500:]}"


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the working folder, Python with these names at hand."""
    if block.kind == "sh":
        for words in commands(block.text):
            if words != TRAINING.split():
                run_command(words)
        return
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(re.sub(r"\b(epochs|steps)=\d+", r"\1=2", block.text), "<page>", "exec"), names)
