"""What `--data` and its companions say, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    """

    spec: str
    split: str = "test"
    limit: int | None = None
    seed: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None

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
