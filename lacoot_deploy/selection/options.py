"""What a search for blocks, or one for activations, is asked for: one value each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lacoot_deploy.errors import UsageError
from lacoot_deploy.graph.model.blocks import Form
from lacoot_deploy.selection.names import (
    FITS,
    FORMS,
    GRANULARITIES,
    MERGES,
    PRIVATE_IO,
    REPAIRS,
    SEARCHES,
    activation_criterion,
    block_criterion,
    known,
)

if TYPE_CHECKING:
    from lacoot_deploy.selection.limits import Limit

Granularity = Literal["block", "unit"]
PrivateIO = Literal["keep", "drop", "renumber"]
Fit = Literal["identity", "affine", "pieces"]
Merge = Literal["always", "cheaper", "measured", "never"]


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
        private_io: What becomes of the model's inputs and outputs that belong to one block alone, such as a layer's
            key-value cache: `keep` refuses blocks that have such outputs, `drop` takes them along, `renumber` also
            gives the rest numbers without gaps.
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
    private_io: PrivateIO = "keep"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        if self.criterion is not None:
            block_criterion(self.criterion)
        for name, value, names in (
            ("search", self.search or "greedy", SEARCHES),
            ("repair", self.repair, REPAIRS),
            ("form", self.form, FORMS),
            ("granularity", self.granularity, GRANULARITIES),
            ("private_io", self.private_io, PRIVATE_IO),
        ):
            known(name, value, names)

    @property
    def refits(self) -> bool:
        """Whether the blocks that stay are refitted."""
        return self.repair == "auto" if self.refit is None else self.refit

    @property
    def wanted(self) -> Form | None:
        """The form in which blocks go; None for each one's best."""
        return None if self.form == "auto" else Form(self.form)


DEFAULTS = SearchOptions()


@dataclass(frozen=True)
class LineariseOptions:
    """Which activations become linear, and what happens then.

    Attributes:
        what: `auto` for those whose neighbours then merge into fewer multiply-adds, `all` for any, or names; None to
            merge only what is linear already.
        limit: How far `auto` and `all` go: a count, `max_drop`, `max_drift` or `min_speedup`.
        criterion: `entropy`, `gaussian`, `slope` or `output`.
        search: `greedy` scores again after every step, `ranked` keeps the first order.
        fit: What is put in their place; None for `affine` with data and `identity` without.
        merge: Which linear operators are merged afterwards; None for `cheaper`.
        inexact: Whether also those that merge with an error at padded borders.

    Raises:
        UsageError: They contradict each other, or one of them has no such value.
    """

    what: Literal["auto", "all"] | tuple[str, ...] | None = "auto"
    limit: Limit | None = None
    criterion: str | None = None
    search: str | None = None
    fit: Fit | None = None
    merge: Merge | None = None
    inexact: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        known("fit", self.fit or "affine", FITS)
        known("merge", self.merge or "never", MERGES)
        known("search", self.search or "greedy", SEARCHES)
        if self.criterion is not None:
            activation_criterion(self.criterion)
        if self.what is None:
            if self.fit is not None or (self.inexact and self.merge is None):
                raise UsageError(f"{'--fit' if self.fit else '--inexact'} goes with --linearise.")
        elif isinstance(self.what, tuple):
            if self.limit is not None:
                raise UsageError(
                    "Activations that are named all become linear: give names or a limit, not both."
                )
            if not self.what:
                raise UsageError("--linearise names no activation.")
        elif self.limit is None:
            raise UsageError(
                f"Say how far --linearise {self.what} goes: --count, --max-drop, --max-drift or --min-speedup."
            )
        else:
            wrong = {"blocks", "max_distance", "lossless"} & self.limit.given().keys()
            if wrong:
                raise UsageError(f"--{min(wrong).replace('_', '-')} is about blocks, not about activations.")

    def need_data(self) -> None:
        """Refuse what cannot be done without data.

        Raises:
            UsageError: It cannot.
        """
        if isinstance(self.what, str):
            raise UsageError("Activations are scored on data: give --data, or name them.")
        if self.what is not None and self.fit in ("affine", "pieces"):
            raise UsageError(f"--fit {self.fit} is fitted on data: give --data.")
