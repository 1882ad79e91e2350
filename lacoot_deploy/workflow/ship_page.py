"""`report.html` of a shipped folder: the report's own page, about the float32 files, with the account in it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lacoot_deploy.files import sha256_file
from lacoot_deploy.workflow.reporting import report
from lacoot_deploy.workflow.ship_request import PLAIN

if TYPE_CHECKING:
    from lacoot_deploy.bench.result import BenchResult
    from lacoot_deploy.shipping.account import ShipResult
    from lacoot_deploy.workflow.ship_measures import Judged
    from lacoot_deploy.workflow.ship_request import Source

PAGE = "report.html"


def write_page(
    account: ShipResult, folder: Path, sources: Sequence[Source], judged: Judged, timed: BenchResult | None
) -> None:
    """Write the page.

    Raises:
        LacootError: The report cannot be made of these files.
    """
    from lacoot_deploy.runtime.compare import compare_models
    from lacoot_deploy.runtime.sessions import open_session

    plain = [folder / str(line.file) for line in account.shipped if line.conversion == PLAIN]
    title = f"{sources[0].stem} for {account.target}"
    with tempfile.TemporaryDirectory(prefix="lacoot-page-") as name:
        known = Path(name) / "ship.json"
        known.write_text(account.model_dump_json(), encoding="utf-8")
        inputs: list[str | Path] = [*plain, known]
        if len(plain) > 1:
            sessions = [open_session(path, judged.runtime) for path in plain[:2]]
            comparison = compare_models(sessions[0], sessions[1], judged.evidence.confirm)
            comparison.a_sha256, comparison.b_sha256 = (sha256_file(path) for path in plain[:2])
            compared = Path(name) / "compare.json"
            compared.write_text(comparison.model_dump_json(), encoding="utf-8")
            inputs.append(compared)
        if timed is not None and len(plain) > 1:
            benched = Path(name) / "bench.json"
            benched.write_text(timed.model_dump_json(), encoding="utf-8")
            inputs.append(benched)
        report(inputs, folder / PAGE, title=title)
