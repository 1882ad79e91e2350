"""Weights from a local file into a network, head and all, without running code that a file may carry."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from lacoot_deploy.errors import InputError
from lacoot_deploy.training.checkpoint import CHECKPOINT_KEY

WRAPPERS = ("state_dict", "model_state_dict", "model", "weights")
PREFIXES = ("module.", "_orig_mod.")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file or of a weights-only checkpoint of torch.save, by name.

    A checkpoint of this tool gives its model's weights. Wrappings such as {"state_dict": ...} and the prefixes that
    parallel and compiled modules leave are taken off.

    Raises:
        InputError: The file is missing or malformed, or is a pickle that would run code.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a local file of weights.")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    if not tensors:
        raise InputError(f"{path} holds no tensors.")
    return tensors


def load_weights(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Put a file's weights into a model; gives back the names in the classifier that keep their fresh values.

    A last linear layer of another number of classes keeps its initial values, which is what fine-tuning wants.

    Raises:
        InputError: As for `read_weights`; or names or shapes fit nowhere else.
    """
    tensors = read_weights(path)
    own = model.state_dict()
    unlike = [n for n, value in own.items() if n in tensors and tensors[n].shape != value.shape]
    head = set(_head(model))
    fresh = [name for name in unlike if name in head]
    wrong = [name for name in unlike if name not in head]
    if wrong:
        name = wrong[0]
        raise InputError(
            f"{path} does not fit the model: {name} has shape {list(tensors[name].shape)}, "
            f"expected {list(own[name].shape)}."
        )
    missing = [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")]
    extra = [n for n in tensors if n not in own]
    if missing or extra:
        parts = [
            f"{what} {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"
            for what, names in (("it lacks", missing), ("the model has no", extra))
            if names
        ]
        raise InputError(f"{path} does not fit the model: {'; '.join(parts)}.")
    model.load_state_dict({n: v for n, v in tensors.items() if n not in fresh}, strict=False)
    return tuple(fresh)


def restore_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put a checkpoint's weights back into the model that they came from.

    Raises:
        InputError: The model has other parameters than when the checkpoint was written.
    """
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(
            f"The checkpoint's weights do not fit the model, whose code or version may have changed: {first}"
        ) from None


def _head(model: nn.Module) -> list[str]:
    """Names of the parameters of the last linear layer, which is where classes are told apart."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        return []
    name, layer = layers[-1]
    return [f"{name}.{key}" for key in layer.state_dict()] if isinstance(layer, nn.Linear) else []


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            ours = CHECKPOINT_KEY in (file.metadata() or {})
            names = [n for n in file.keys() if not ours or n.startswith("model/")]  # noqa: SIM118 (no mapping)
            return {name.removeprefix("model/") if ours else name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is no readable safetensors file: {error}.") from None


def _torch_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is a pickle that holds more than weights and would run code on loading; "
            f"save its state_dict as safetensors."
        ) from None
    except Exception as error:  # a damaged file ends in whatever its fields lead to
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path} is no readable checkpoint: {said}.") from None
    for wrapper in WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(wrapper), Mapping):
            data = data[wrapper]
            break
    if not isinstance(data, Mapping):
        raise InputError(f"{path} holds a {type(data).__name__}, not weights by name.")
    strange = [name for name, value in data.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise InputError(f"{path} holds {strange[0]!r}, which is no tensor; save the state_dict alone.")
    return dict(data)
