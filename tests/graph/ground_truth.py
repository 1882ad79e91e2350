"""Architectures with the residual blocks that they have: the modules, written down or told by their class.

`expected` maps module paths to the best form in which the block can go. Nothing here asks the code under test.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

Expected = dict[str, str]
Built = tuple[nn.Module, tuple[Any, ...]]
BYPASS, SHORTCUT = "bypass", "shortcut"


@dataclass(frozen=True)
class Architecture:
    """One network and its residual blocks.

    Attributes:
        name: What the test is called.
        build: Makes the module, in evaluation mode, and example inputs.
        expected: Module paths of its residual blocks with their best form.
        fast: Exported and checked on every run; the others only with the slow tests.
        exporters: Which of PyTorch's exporters can export it.
        options: Further options of `torch.onnx.export`, by exporter.
    """

    name: str
    build: Callable[[], Built]
    expected: Callable[[nn.Module], Expected]
    fast: bool = False
    exporters: tuple[str, ...] = ("dynamo", "torchscript")
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


def export(module: nn.Module, inputs: tuple[Any, ...], exporter: str, **options: Any) -> onnx.ModelProto:
    """The module as an ONNX model, by one of PyTorch's two exporters."""
    buffer = io.BytesIO()
    # PyTorch's fused attention has no ONNX form; without it the same module is traced as plain operators.
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            program = torch.onnx.export(module, inputs, dynamo=True, verbose=False, **options)
            program.save(buffer)
        else:
            torch.onnx.export(module, inputs, buffer, dynamo=False, **options)
    return onnx.load_from_string(buffer.getvalue())


def exported(architecture: Architecture, exporter: str) -> tuple[onnx.ModelProto, Expected]:
    """The architecture's ONNX model and its blocks; kept in the folder `LACOOT_TEST_CACHE` names, if one is named."""
    torch.manual_seed(0)
    module, inputs = architecture.build()
    module = as_if_trained(module.eval())
    expected = architecture.expected(module)
    folder = os.environ.get("LACOOT_TEST_CACHE")
    if not folder:
        return export(module, inputs, exporter, **architecture.options.get(exporter, {})), expected
    path = Path(folder) / f"{architecture.name}-{exporter}-{torch.__version__}.onnx"
    if not path.exists():
        onnx.save(export(module, inputs, exporter, **architecture.options.get(exporter, {})), path)
    return onnx.load(path), expected


def as_if_trained(module: nn.Module) -> nn.Module:
    """No two weights alike: tools merge equal tensors, which fresh networks are full of and trained ones are not."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.ndim:
                tensor += 0.01 * torch.rand_like(tensor)
    return module


def image(size: int = 64, channels: int = 3, batch: int = 1) -> tuple[Tensor, ...]:
    return (torch.randn(batch, channels, size, size),)


def modules(module: nn.Module, *kinds: type | str) -> Iterator[tuple[str, Any]]:
    """Submodules that are of one of the classes, or whose class has one of the names."""
    classes = tuple(kind for kind in kinds if isinstance(kind, type))
    names = {kind for kind in kinds if isinstance(kind, str)}
    for path, child in module.named_modules():
        if isinstance(child, classes) or type(child).__name__ in names:
            yield path, child


def every(*kinds: type | str, form: str = BYPASS) -> Callable[[nn.Module], Expected]:
    """Every submodule of these classes is a block."""
    return lambda module: {path: form for path, _ in modules(module, *kinds)}


def downsampled(*kinds: type | str, by: str = "downsample") -> Callable[[nn.Module], Expected]:
    """Every submodule of these classes is a block; one with a projection can only lose its branch."""
    return lambda module: {
        path: BYPASS if isinstance(getattr(child, by, None), (nn.Identity, type(None))) else SHORTCUT
        for path, child in modules(module, *kinds)
    }


def flagged(*kinds: type | str, flag: str) -> Callable[[nn.Module], Expected]:
    """Those submodules of these classes that add their input, as an attribute of theirs says."""
    return lambda module: {path: BYPASS for path, child in modules(module, *kinds) if getattr(child, flag)}


def paths(pattern: str, count: int, form: str = BYPASS) -> Callable[[nn.Module], Expected]:
    """Numbered module paths written down: `paths("layers.{}", 2)` is layers.0 and layers.1."""
    return lambda module: {pattern.format(number): form for number in range(count)}


def none(module: nn.Module) -> Expected:
    """Nothing to find."""
    return {}


def torchvision_net(name: str, size: int = 64, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        import torchvision

        return torchvision.models.get_model(name, weights=None, **options), image(size)

    return build


def timm_net(name: str, size: int = 64, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        import timm

        return timm.create_model(name, pretrained=False, **options), image(size)

    return build


def hand_made(name: str, inputs: Callable[[], tuple[Any, ...]]) -> Callable[[], Built]:
    def build() -> Built:
        import nets

        return getattr(nets, name)(), inputs()

    return build


class First(nn.Module):
    """A Hugging Face model whose first result is the only one; its modules are under `model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(*inputs, return_dict=False)[0]


class Seq2Seq(First):
    """The same for an encoder and a decoder, with tokens for each."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(
            input_ids=inputs[0], decoder_input_ids=inputs[1], use_cache=False, return_dict=False
        )[0]


class Feature(nn.Module):
    """A torchvision model whose results are a dict, given as a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(x).values())


def transformer(
    make: Callable[[Any], nn.Module], inputs: Callable[[], tuple[Any, ...]], wrapper: type[First] = First
) -> Callable[[], Built]:
    def build() -> Built:
        import transformers

        return wrapper(make(transformers)), inputs()

    return build


def tokens(length: int = 12, vocabulary: int = 50) -> tuple[Tensor, ...]:
    return (torch.randint(0, vocabulary, (1, length)),)


def tokens_and_mask() -> tuple[Tensor, ...]:
    return (*tokens(), torch.ones(1, 12, dtype=torch.long))
