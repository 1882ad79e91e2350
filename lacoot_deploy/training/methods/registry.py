"""The methods by the name that a recipe gives them: a new one is a file here, and a line below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lacoot_deploy.training.methods.base import Method, MethodSettings
from lacoot_deploy.training.methods.easier import Easier, EasierSettings
from lacoot_deploy.training.methods.lacoot import Lacoot, LacootSettings
from lacoot_deploy.training.methods.layercollapse import LayerCollapse, LayerCollapseSettings
from lacoot_deploy.training.methods.nepenthe import Nepenthe, NepentheSettings
from lacoot_deploy.training.methods.tlc import Tlc, TlcSettings
from lacoot_deploy.training.methods.trady import Trady, TradySettings


@dataclass(frozen=True)
class Entry:
    """A method and the settings of its section."""

    method: type[Method[Any]]
    settings: type[MethodSettings]


METHODS: Mapping[str, Entry] = {
    "lacoot": Entry(Lacoot, LacootSettings),
    "easier": Entry(Easier, EasierSettings),
    "nepenthe": Entry(Nepenthe, NepentheSettings),
    "tlc": Entry(Tlc, TlcSettings),
    "layercollapse": Entry(LayerCollapse, LayerCollapseSettings),
    "trady": Entry(Trady, TradySettings),
}


def owners(name: str) -> list[str]:
    """The methods that have a setting of this name."""
    return [method for method, entry in METHODS.items() if name in entry.settings.model_fields]
