"""What `ship` is asked for, and the models that it is asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lacoot_deploy.bench.options import BenchOptions
from lacoot_deploy.data.options import DataOptions
from lacoot_deploy.errors import UsageError
from lacoot_deploy.runtime.options import AUTO, Runtime
from lacoot_deploy.shipping.account import Role
from lacoot_deploy.shipping.targets import get_target

if TYPE_CHECKING:
    import onnx

    from lacoot_deploy.data import Samples
    from lacoot_deploy.manifest import Manifest


USUAL_DROP = 1.0
"""Points that a share of samples may drop where no limit is given."""

PLAIN = "float32"
"""What the account calls a model that was not converted."""


@dataclass(frozen=True)
class ShipRequest:
    """Everything that `ship` is asked for.

    Attributes:
        models: ONNX files; the first is the dense float32 network that all are held against.
        output: The folder to write.
        data: Samples to calibrate, choose and confirm by, and what the network is for as far as the user says.
        target: The device.
        conversions: Chains asked for by name, such as `fixed+int8+ort`; empty for those of the target.
        max_drop: Most that the score may drop against the dense float32 file; None for a point where the score is a
            share of samples, else for no limit.
        opset: The version for the conversion `opset`.
        batch: Samples in one run on the device: what free first axes are fixed to, and what is timed.
        bench: How latency is measured, all files in one run; None to measure none.
        runtime: Where files run.

    Raises:
        UsageError: There is no model, no such target or conversion.
    """

    models: tuple[Path, ...]
    output: Path
    data: DataOptions
    target: str = "cpu"
    conversions: tuple[str, ...] = ()
    max_drop: float | None = None
    opset: int | None = None
    batch: int = 1
    bench: BenchOptions | None = field(default_factory=BenchOptions)
    runtime: Runtime = AUTO

    def __post_init__(self) -> None:
        """Refuse what cannot be done before anything is read."""
        from lacoot_deploy.shipping.registry import chain_of

        if not self.models:
            raise UsageError("Give at least one model to ship.")
        target = get_target(self.target)
        for name in self.conversions or target.chains:
            chain_of(name)
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UsageError(f"The drop must be 0 or more, not {self.max_drop:g}.")
        if any("opset" in name.split("+") for name in self.conversions) and self.opset is None:
            raise UsageError("The conversion 'opset' needs the version: give --opset.")

    @property
    def chains(self) -> tuple[str, ...]:
        """The chains to apply to every model."""
        return tuple(dict.fromkeys(self.conversions or get_target(self.target).chains))


@dataclass(frozen=True)
class Source:
    """A model that is shipped.

    Attributes:
        path: Its file.
        model: Read, without external weights.
        manifest: What it carries; None for nothing.
        role: What it is.
        stem: What its files are called.
    """

    path: Path
    model: onnx.ModelProto
    manifest: Manifest | None
    role: Role
    stem: str


def read_sources(paths: Sequence[Path]) -> tuple[Source, ...]:
    """The models to ship, the dense one first, each with a name of its own.

    Raises:
        InputError: One cannot be read.
    """
    from lacoot_deploy.graph.model.io import load_model
    from lacoot_deploy.manifest import read_manifest

    found: list[Source] = []
    taken: set[str] = set()
    for path in paths:
        model = load_model(path)
        manifest = read_manifest(model, path=path)
        stem = path.stem if path.suffix == ".onnx" else path.name
        stem = stem if stem not in taken else f"{path.parent.name or 'model'}-{stem}"
        number = 2
        while stem in taken:
            stem, number = f"{path.stem}-{number}", number + 1
        taken.add(stem)
        found.append(Source(path, model, manifest, _role(manifest, first=not found), stem))
    return tuple(found)


def _role(manifest: Manifest | None, *, first: bool) -> Role:
    if first:
        return "dense"
    history = manifest.history if manifest is not None else []
    if not history:
        return "other"
    healed = (manifest is not None and manifest.healed) or history[-1].accuracy_healed is not None
    return "healed" if healed else "collapsed"


def samples_of(source: Source, data: DataOptions) -> Samples:
    """The samples that the data options name, as inputs of a model."""
    from lacoot_deploy.workflow.data import samples_for

    return samples_for(source.model, source.manifest, data)
