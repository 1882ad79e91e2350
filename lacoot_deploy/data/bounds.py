"""How much a data source may unpack to: a share of the machine's memory, so that no file can exhaust it."""

from __future__ import annotations

from lacoot_deploy.errors import InputError
from lacoot_deploy.machine import usable_memory

MAX_PIXELS = 64 * 1024 * 1024
"""Of one image."""

MAX_IMAGE_BYTES = 64 * 1024 * 1024
"""Of one packed image or archive member."""

SHARE = 0.5


def memory_bound() -> int:
    """Bytes that the samples of one source may take: half of what this process may have, containers counted."""
    return int(usable_memory() * SHARE)


def check_bytes(wanted: int, what: str) -> None:
    """Refuse to unpack more than `memory_bound`.

    Raises:
        InputError: Naming what it would take and what is allowed.
    """
    bound = memory_bound()
    if wanted > bound:
        raise InputError(
            f"{what} would take {wanted / 2**30:.3g} GiB of memory, and half of this machine's is "
            f"{bound / 2**30:.3g} GiB; give fewer or smaller samples."
        )


def check_image_size(size: tuple[int, int]) -> None:
    """Refuse an image size that no image can be brought to.

    Raises:
        InputError: A side is below 1 or there are too many pixels.
    """
    height, width = size
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InputError(
            f"Images cannot be brought to {height}x{width} pixels; each side must be at least 1 and the image at most "
            f"{MAX_PIXELS >> 20} million pixels."
        )
