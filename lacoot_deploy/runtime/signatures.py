"""Whether two models take the same inputs and give the same outputs."""

from __future__ import annotations

from lacoot_deploy.data.types import InputInfo
from lacoot_deploy.errors import InputError
from lacoot_deploy.runtime.feeds import shape_text
from lacoot_deploy.runtime.sessions import Session


def check_signatures(a: Session, b: Session) -> None:
    """Refuse two models that do not take the same inputs and give the same outputs; a free dimension fits any size.

    Raises:
        InputError: Naming the first input or output that differs, and how.
    """
    for what, ours, theirs in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        there = {info.name: info for info in theirs}
        missing = [info.name for info in ours if info.name not in there]
        extra = [name for name in there if name not in {info.name for info in ours}]
        if missing or extra:
            raise InputError(
                f"The two models cannot be compared: {what}s of {a.label} are {_names(ours)}, of {b.label} "
                f"{_names(theirs)}."
            )
        for info in ours:
            other = there[info.name]
            if info.dtype != other.dtype:
                raise InputError(
                    f"The two models cannot be compared: {what} {info.name!r} is {info.dtype} in {a.label} but "
                    f"{other.dtype} in {b.label}."
                )
            if info.shape and other.shape and not _compatible(info, other):
                raise InputError(
                    f"The two models cannot be compared: {what} {info.name!r} has shape {shape_text(info.shape)} in "
                    f"{a.label} but {shape_text(other.shape)} in {b.label}."
                )


def _compatible(a: InputInfo, b: InputInfo) -> bool:
    return len(a.shape) == len(b.shape) and all(
        x == y for x, y in zip(a.shape, b.shape, strict=True) if isinstance(x, int) and isinstance(y, int)
    )


def _names(infos: tuple[InputInfo, ...]) -> str:
    return ", ".join(info.name for info in infos) or "none"
