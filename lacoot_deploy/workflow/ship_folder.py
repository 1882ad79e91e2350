"""The folder that is handed on: it appears whole or not at all, with its papers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lacoot_deploy.errors import InputError, LacootError
from lacoot_deploy.files import staging_folder, sync_folder
from lacoot_deploy.shipping.account import ShipResult
from lacoot_deploy.shipping.readme import readme
from lacoot_deploy.shipping.scripts import run_script
from lacoot_deploy.workflow.ship_page import write_page

if TYPE_CHECKING:
    from lacoot_deploy.bench.result import BenchResult
    from lacoot_deploy.workflow.ship_measures import Judged
    from lacoot_deploy.workflow.ship_request import Source

ACCOUNT = "ship.json"


@contextmanager
def new_folder(target: Path, *, inputs: Sequence[Path]) -> Iterator[Path]:
    """A folder to fill, which becomes `target` in one step when the block ends normally.

    A folder that an earlier run of `ship` wrote is replaced; nothing else is.

    Raises:
        InputError: The target cannot be written, is something else already, or holds an input.
    """
    check_folder(target, inputs=inputs)
    try:
        with staging_folder(target) as staging:
            made = staging / "new"
            made.mkdir()
            yield made
            if target.is_dir():
                os.rename(target, staging / "old")
            os.rename(made, target)
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}.") from None


def check_folder(target: Path, *, inputs: Sequence[Path]) -> None:
    """Refuse a target before any work is done for it.

    Raises:
        InputError: As for `new_folder`.
    """
    parent = target.absolute().parent
    if not parent.is_dir():
        raise InputError(f"The folder {parent} does not exist; create it or choose another output.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"The folder {parent} cannot be written; choose another output.")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target} is no folder and will not be replaced; choose another output.")
    if target.is_dir() and os.listdir(target) and not (target / ACCOUNT).is_file():
        raise InputError(f"{target} holds other files and will not be replaced; choose a new folder.")
    inside = next((path for path in inputs if path.resolve().is_relative_to(target.resolve())), None)
    if target.is_dir() and inside is not None:
        raise InputError(
            f"{inside} is an input and lies in {target}, which would be replaced; choose another."
        )


def write_papers(
    account: ShipResult, folder: Path, sources: Sequence[Source], judged: Judged, timed: BenchResult | None
) -> None:
    """`ship.json`, `README.md`, `run.py` and `report.html`."""
    (folder / "run.py").write_text(run_script(judged.target), encoding="utf-8")
    page = _page(account, folder, sources, judged, timed)
    (folder / ACCOUNT).write_text(account.model_dump_json(indent=2) + "\n", encoding="utf-8")
    manifest = sources[0].manifest
    preprocessing = manifest.preprocessing if manifest is not None else None
    text = readme(account, folder, preprocessing=preprocessing, page=page)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _page(
    account: ShipResult, folder: Path, sources: Sequence[Source], judged: Judged, timed: BenchResult | None
) -> bool:
    """`report.html`, from the account and the float32 files; whether there is one."""
    try:
        write_page(account, folder, sources, judged, timed)
    except LacootError as error:
        account.notes.append(f"There is no report.html: {error}")
        return False
    return True
