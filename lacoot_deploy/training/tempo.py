"""How many threads PyTorch trains with: as the recipe says, as the run had it, or the fastest that trying finds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lacoot_deploy.threads import Watch, counts_to_try, fastest, usable_threads

Trial = Callable[[], Callable[[], None]]
"""Gives a step to try on, when one is wanted."""


class Tempo:
    """Sets the threads of this process for the time of a run.

    Attributes:
        chosen: What was found by trying or recorded; None where nobody tried.
    """

    chosen: int | None = None

    def __init__(self, given: int | None, note: Callable[[str], None], *, limit: int | None = None) -> None:
        """Take over what decides.

        Args:
            given: The number that the recipe names; None for trying.
            note: Is told what was found.
            limit: Threads at most; None for as many as PyTorch would take and the process may use.
        """
        self.before = torch.get_num_threads()
        self.given, self.note = given, note
        self.limit = min(self.before, usable_threads()) if limit is None else limit
        self.watch = Watch()

    def begin(self, recorded: int | None, trial: Trial) -> None:
        """Set the number before the first epoch.

        Args:
            recorded: What the run had before it was interrupted, which it keeps so that it ends as if it never was.
            trial: What is tried on otherwise.
        """
        if self.given is not None:
            torch.set_num_threads(self.given)
        elif self.limit > 1 and recorded is not None:
            self.chosen = min(recorded, self.limit)
            torch.set_num_threads(self.chosen)
        elif self.limit > 1:
            self._try(trial)

    def look(self, seconds: float, trial: Trial) -> None:
        """Try again where steps, each of so many seconds, have become slow."""
        if self.watch.slow(seconds) and self.given is None and self.limit > 1:
            self._try(trial)

    def end(self) -> None:
        """Leave the process as it was."""
        torch.set_num_threads(self.before)

    def _try(self, trial: Trial) -> None:
        step, before = trial(), torch.get_num_threads()

        def attempt(count: int) -> None:
            torch.set_num_threads(count)
            step()

        found = fastest({n: lambda n=n: attempt(n) for n in counts_to_try(self.limit)})  # type: ignore[misc]
        torch.set_num_threads(found)
        self.chosen = found
        if found != before:
            self.note(
                f"{found} of {self.limit} threads {'is' if found == 1 else 'are'} the fastest here now."
            )
