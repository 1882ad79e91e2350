"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is in all, and what is being done."""

Count = Callable[[int, int], None]
"""Called with what is done and what there is in all."""
