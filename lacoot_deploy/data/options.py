"""What `--data` and its companions say, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TaskOptions:
    """What the user says about what the network is for; see `lacoot_deploy.tasks`.

    Attributes:
        name: `NAME`, `NAME:MEASURE` or `python:module:object`; None to find it from outputs and labels.
        outputs: The outputs that count; None for all.
        trust_labels: Whether labels are believed although the dense network is no better than guessing.
        recorded: What the model's manifest says; taken where no name is given and it fits.
        measure: The score that counts, where the name does not say; None for the task's first.
    """

    name: str | None = None
    outputs: tuple[str, ...] | None = None
    trust_labels: bool = False
    recorded: str | None = None
    measure: str | None = None


ANY_TASK = TaskOptions()
"""Nothing is said: the task is found."""


@dataclass(frozen=True)
class DataOptions:
    """A data specification with the options that say how to read it.

    Attributes:
        spec: As in `--data`.
        split: Part of an image source.
        limit: At most that many samples.
        seed: Seed of their choice.
        mean: Per channel on the 0..1 scale, where the model has no manifest.
        std: Likewise.
        size: Height and width, likewise.
        task: What the labels are labels of.
        sample_axis: The axis that counts samples, of inputs where that is not the first.
        shared: Inputs that have no sample axis and are given whole to every run.
    """

    spec: str
    split: str = "test"
    limit: int | None = None
    seed: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    task: TaskOptions = ANY_TASK
    sample_axis: Mapping[str, int] = field(default_factory=dict, hash=False)
    shared: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: DataOptions | str, *, split: str = "test") -> DataOptions:
        """The options as they are, or those of a bare specification such as `npz:calibration.npz`."""
        return cls(data, split=split) if isinstance(data, str) else data

    @property
    def files(self) -> list[Path]:
        """The file or folder that the specification names, in a list; nothing where it names none."""
        kind, _, path = self.spec.partition(":")
        return [Path(path)] if path and kind != "python" else []

    @property
    def portable(self) -> str:
        """The specification without the folders of this machine."""
        return portable(self.spec)


def portable(spec: str) -> str:
    """A data specification, or a description that begins with one, without the folders of this machine."""
    kind, colon, path = spec.partition(":")
    return spec if kind == "python" or not colon else kind + colon + Path(path).name
