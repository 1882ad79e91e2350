"""What lies beside a decoder and says how many layers it has: copied beside the shorter model with the new number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lacoot_deploy.errors import InputError
from lacoot_deploy.files import atomic_write_text

NAMES = ("config.json", "genai_config.json")
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
_PER_LAYER = ("layer_types", "no_rope_layers", "attention_layers")


def write_configs(source: Path, target: Path, removed: Iterable[int]) -> list[str]:
    """Write the configurations beside `source` into the folder of `target`, with as many layers as are left.

    Nothing is written where both lie in one folder: what is beside the input is never changed.

    Args:
        source: The model as it was.
        target: The shorter model.
        removed: Numbers of the layers that are gone.

    Returns:
        One sentence for each configuration.

    Raises:
        InputError: A configuration is no JSON object.
    """
    gone = sorted(set(removed))
    found = [source.parent / name for name in NAMES if (source.parent / name).is_file()]
    if not gone or not found:
        return []
    names = " and ".join(path.name for path in found)
    if source.parent.resolve() == target.parent.resolve():
        return [
            f"{names} still say the old number of layers; write into another folder to get changed copies."
        ]
    notes = []
    for path in found:
        config = _read(path)
        changes = list(_shorten(config, gone, source.name, target.name))
        if changes:
            atomic_write_text(
                target.parent / path.name, json.dumps(config, indent=2, ensure_ascii=False) + "\n"
            )
            notes.append(f"{path.name} was copied with {' and '.join(changes)}.")
    return notes


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}, beside the model, is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}, beside the model, holds no JSON object.")
    return config


def _shorten(config: dict[str, Any], gone: list[int], source: str, target: str) -> Iterable[str]:
    """Change the counts, the lists with an entry for each layer, and the model's file name, in place."""
    counts = {key: config[key] for key in _COUNTS if isinstance(config.get(key), int)}
    for key, layers in counts.items():
        config[key] = layers - len(gone)
        yield f"{key} {config[key]}"
        for entries in (config.get(name) for name in _PER_LAYER):
            if isinstance(entries, list) and len(entries) == layers:
                entries[:] = [entry for number, entry in enumerate(entries) if number not in gone]
    if config.get("filename") == source:
        config["filename"] = target
    for inner in config.values():
        if isinstance(inner, dict):
            yield from _shorten(inner, gone, source, target)
