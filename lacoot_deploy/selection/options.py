"""What a search is asked for, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.blocks import Form

Granularity = Literal["block", "unit"]

SEARCHES = ("ranked", "greedy")
REPAIRS = ("none", "affine", "linear", "auto")
FORMS = ("auto", "bypass", "shortcut")
GRANULARITIES = ("block", "unit")


@dataclass(frozen=True)
class SearchOptions:
    """How blocks are chosen, and what is put where they were.

    Attributes:
        criterion: What ranks the blocks, a name in `criteria.CRITERIA`; None for `loss` with labels, `output` with data
            but no labels, else the best recorded distance.
        search: `ranked` keeps one order, `greedy` scores again after every removal; None for `greedy` where the
            criterion tries removals.
        repair: `none`, `affine`, `linear` or `auto`. Without data nothing can be fitted: `auto` is then `none`.
        refit: Whether the blocks that stay are refitted where that is a real gain; None for yes with `auto`.
        form: `auto`, `bypass` or `shortcut`.
        granularity: Whole blocks, or every residual `unit` as a block of its own.
        seed: Seed of the roles that samples get, and of the random control.

    Raises:
        UsageError: One of them has no such value.
    """

    criterion: str | None = None
    search: str | None = None
    repair: str = "auto"
    refit: bool | None = None
    form: str = "auto"
    granularity: Granularity = "block"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        from lacoot_deploy.selection.criteria import get_criterion

        if self.criterion is not None:
            get_criterion(self.criterion)
        for name, value, known in (
            ("search", self.search or "greedy", SEARCHES),
            ("repair", self.repair, REPAIRS),
            ("form", self.form, FORMS),
            ("granularity", self.granularity, GRANULARITIES),
        ):
            if value not in known:
                raise UsageError(f"There is no {name} {value!r}; choose one of {', '.join(known)}.")

    @property
    def refits(self) -> bool:
        """Whether the blocks that stay are refitted."""
        return self.repair == "auto" if self.refit is None else self.refit

    @property
    def wanted(self) -> Form | None:
        """The form in which blocks go; None for each one's best."""
        return None if self.form == "auto" else Form(self.form)


DEFAULTS = SearchOptions()
