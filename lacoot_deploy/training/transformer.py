"""A small vision transformer, with its norms before the branches or after the additions (as BERT has them)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, T, width] to the same."""
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.inward(x).chunk(3, -1)]
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        result: torch.Tensor = self.outward(mixed.transpose(1, 2).flatten(2))
        return result


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a shortcut around it."""

    def __init__(self, width: int, heads: int, *, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, T, width] to the same."""
        if self.norm_first:
            x = x + self.attention(self.norm1(x))
            result: torch.Tensor = x + self.feed_forward(self.norm2(x))
        else:
            x = self.norm1(x + self.attention(x))
            result = self.norm2(x + self.feed_forward(x))
        return result


class PatchTransformer(nn.Module):
    """Patches, their places, encoder layers, the mean over patches, classes."""

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: int = 32,
        patch: int = 4,
        width: int = 64,
        depth: int = 8,
        heads: int = 4,
        norm_first: bool = False,
    ) -> None:
        """Build it.

        Args:
            classes: Number of classes.
            channels: Channels of the images.
            size: Height and width of the images in pixels.
            patch: Height and width of a patch in pixels; divides `size`.
            width: Length of a patch's vector; a multiple of `heads`.
            depth: Number of encoder layers.
            heads: Attention heads.
            norm_first: Norms before the branches (pre-norm) instead of after the additions (post-norm).

        Raises:
            TypeError: The sizes do not divide.
        """
        super().__init__()
        if size % patch or width % heads:
            raise TypeError(
                f"size {size} must be a multiple of patch {patch}, width {width} of heads {heads}"
            )
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.places = nn.Parameter(torch.zeros(1, (size // patch) ** 2, width))
        nn.init.normal_(self.places, std=0.02)
        self.layers = nn.Sequential(
            *(EncoderLayer(width, heads, norm_first=norm_first) for _ in range(depth))
        )
        self.norm: nn.Module = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, size, size] to logits [N, classes]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        logits: torch.Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return logits
