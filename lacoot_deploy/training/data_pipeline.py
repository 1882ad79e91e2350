"""Images on the device: decoded once, kept as bytes, shuffled, augmented and normalised a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

from lacoot_deploy.data import ImageSet
from lacoot_deploy.errors import InputError
from lacoot_deploy.manifest import PreprocessingRecord

CROP_PAD = 4

ORDER, AUGMENT, DIRECTIONS, METHOD = 0, 1, 2, 3
"""Streams of random numbers within an epoch."""


class DeviceImages:
    """One split of a data set on the device, and the batches drawn from it.

    The images stay 8-bit, so CIFAR-10 takes 150 MB. No worker processes: a batch is one gather.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessing: PreprocessingRecord,
        *,
        device: torch.device,
        channels_last: bool = False,
    ) -> None:
        """Move a split to the device.

        Args:
            images: The split; labels must lie in 0..classes-1.
            preprocessing: How bytes become inputs; a size other than the images' own resizes each batch.
            device: Where batches are made.
            channels_last: Memory format of the batches.
        """
        if len(images) == 0:
            raise InputError("The data holds no images for this split.")
        self.images = torch.from_numpy(images.images).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.device = device
        self.size = preprocessing.size
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        mean = torch.tensor(preprocessing.mean, dtype=torch.float32)
        std = torch.tensor(preprocessing.std, dtype=torch.float32)
        self.scale = (1 / (255 * std)).view(1, -1, 1, 1).to(device)
        self.shift = (-mean / std).view(1, -1, 1, 1).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images float32 [n, C, H, W] and labels int64 [n] at the given indices."""
        indices = indices.to(self.device)
        return self._finish(self.images[indices]), self.labels[indices]

    def augmented(
        self,
        indices: torch.Tensor,
        augment: Sequence[str],
        generator: torch.Generator,
        part: slice = slice(None),
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `batch`, each image flipped and shifted at random.

        The random numbers are drawn on the CPU, so that a seed means the same on every device.

        Args:
            indices: Which images, int64 [n].
            augment: `flip` and `crop`.
            generator: A CPU generator.
            part: Make only this part of the batch. The random numbers are drawn for the whole, so that processes
                which share a batch make together what one would make alone.
        """
        if not augment:
            return self.batch(indices[part])
        count = len(indices)
        _, _, height, width = self.images.shape
        pad = CROP_PAD if "crop" in augment else 0
        shifts = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
        flips = torch.rand(count, 1, generator=generator) < (0.5 if "flip" in augment else 0.0)
        rows = torch.arange(height) + shifts[0]
        columns = torch.arange(width)
        columns = torch.where(flips, width - 1 - columns, columns) + shifts[1]
        rows, columns, indices = (t[part].to(self.device) for t in (rows, columns, indices))
        count = len(indices)
        chosen = functional.pad(self.images[indices], (pad, pad, pad, pad))
        every = torch.arange(count, device=self.device)
        # Indexing around a slice moves the channels to the end: [n, H, W, C].
        crops = chosen[every[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return self._finish(crops.permute(0, 3, 1, 2)), self.labels[indices]

    def in_order(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images without augmentation, in order; the last batch may be shorter."""
        for start in range(0, len(self), batch_size):
            yield self.batch(torch.arange(start, min(start + batch_size, len(self))))

    def _finish(self, images: torch.Tensor) -> torch.Tensor:
        values = images.to(torch.float32)
        values = (values * self.scale + self.shift).contiguous(memory_format=self.format)
        if tuple(values.shape[2:]) != tuple(self.size):
            smaller = self.size[0] < values.shape[2] or self.size[1] < values.shape[3]
            values = functional.interpolate(
                values, size=tuple(self.size), mode="bilinear", antialias=smaller, align_corners=False
            )
        return values


def epoch_order(count: int, *, seed: int, epoch: int) -> torch.Tensor:
    """The order of the images in an epoch, int64 [count]; a function of seed and epoch alone."""
    return torch.randperm(count, generator=seeded(seed, epoch, ORDER))


def seeded(seed: int, epoch: int, stream: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one use in one epoch, so that a resumed run draws what an uninterrupted one draws."""
    generator = torch.Generator(device=device)
    generator.manual_seed((seed * 1_000_003 + epoch) * 16 + stream)
    return generator


def batch_indices(order: torch.Tensor, batch_size: int, *, pieces: int = 1) -> list[torch.Tensor]:
    """The order cut into batches; a rest that would leave a piece with fewer than 2 images is dropped.

    Args:
        order: int64 [N].
        batch_size: Images per batch.
        pieces: Pieces that each batch is divided into, over processes and one after the other.
    """
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) < 2 * pieces:
        batches.pop()
    return batches


def pieces_of(count: int, *, shares: int, parts: int) -> list[list[slice]]:
    """How a batch is divided: one list per process of one slice per part, as even as can be.

    Args:
        count: Images in the batch.
        shares: Processes.
        parts: Parts that each process takes one after the other.
    """
    every = torch.arange(count)
    return [
        [slice(int(piece[0]), int(piece[-1]) + 1) for piece in torch.tensor_split(share, parts) if len(piece)]
        for share in torch.tensor_split(every, shares)
    ]
