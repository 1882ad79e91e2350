"""Networks written by hand whose residual blocks are known, for families that no library here has in a small form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_bn(width_in: int, width_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width_out)
    )


class PreActBlock(nn.Module):
    """He et al. 2016: norm and activation first, shared by the branch and a projected skip."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(width_in), nn.BatchNorm2d(width_out)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        plain = stride == 1 and width_in == width_out
        self.shortcut = None if plain else nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(functional.relu(self.bn2(self.conv1(active)))) + skip


class PreActResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        sizes = [(8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2)]
        self.blocks = nn.Sequential(*(PreActBlock(*size) for size in sizes))
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))


class PaddedBlock(nn.Module):
    """CIFAR ResNet with option A: the skip is subsampled and its channels are padded with zeros."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(width_in, width_out, 3, stride), conv_bn(width_out, width_out)
        self.stride, self.extra = stride, width_out - width_in

    def forward(self, x: Tensor) -> Tensor:
        skip = x
        if self.stride != 1 or self.extra:
            skip = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return functional.relu(self.conv2(functional.relu(self.conv1(x))) + skip)


class PaddedResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.layer1 = nn.Sequential(PaddedBlock(8, 8, 1), PaddedBlock(8, 8, 1))
        self.layer2 = nn.Sequential(PaddedBlock(8, 16, 2), PaddedBlock(16, 16, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer2(self.layer1(functional.relu(self.stem(x)))).mean((2, 3)))


class Bottleneck(nn.Module):
    def __init__(self, width: int, *, add: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv_bn(width, width), conv_bn(width, width)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self.cv2(functional.silu(self.cv1(x))))
        return x + y if self.add else y


class C2f(nn.Module):
    """YOLOv8's cross-stage block: the bottlenecks start from one output of a split, every step is concatenated."""

    def __init__(self, width_in: int, width_out: int, depth: int, *, add: bool = True) -> None:
        super().__init__()
        self.cv1 = conv_bn(width_in, width_out, 1)
        self.m = nn.ModuleList(Bottleneck(width_out // 2, add=add) for _ in range(depth))
        self.cv2 = conv_bn((2 + depth) * width_out // 2, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(functional.silu(self.cv1(x)).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return functional.silu(self.cv2(torch.cat(parts, 1)))


class Yolo(nn.Module):
    """Backbone, neck with upsampling and concatenation, and three decoded heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.down1, self.stage1 = conv_bn(16, 32, 3, 2), C2f(32, 32, 2)
        self.down2, self.stage2 = conv_bn(32, 64, 3, 2), C2f(64, 64, 1)
        self.neck = C2f(96, 32, 1, add=False)
        self.head1, self.head2 = nn.Conv2d(32, 6, 1), nn.Conv2d(64, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stage1(functional.silu(self.down1(functional.silu(self.stem(x)))))
        coarse = self.stage2(functional.silu(self.down2(fine)))
        up = functional.interpolate(coarse, scale_factor=2.0)
        return self.decode(self.head1(self.neck(torch.cat([up, fine], 1)))), self.decode(self.head2(coarse))

    @staticmethod
    def decode(raw: Tensor) -> Tensor:
        height, width = raw.shape[2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([x, y]).to(raw.dtype)
        near, far, rest = raw[:, :2], raw[:, 2:4], raw[:, 4:]
        first, last = grid - near, grid + far
        return torch.cat([(first + last) / 2, last - first, rest.sigmoid()], 1)


class Mlp(nn.Sequential):
    def __init__(self, width: int, ratio: int = 2) -> None:
        super().__init__(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2, *, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))


class DiTBlock(nn.Module):
    """Adaptive norm and gates from a conditioning vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.attn, self.mlp = Attention(width), Mlp(width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class DiT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, 32, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 16, 32))
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.label = nn.Embedding(10, 32)
        self.blocks = nn.ModuleList(DiTBlock(32) for _ in range(3))
        self.norm = nn.LayerNorm(32, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(32, 64))
        self.head = nn.Linear(32, 32)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        condition = self.time(time) + self.label(label)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, -1)
        return self.head(self.norm(x) * (1 + scale) + shift)


class ConvModule(nn.Module):
    """The convolution part of a Conformer layer, with a gate and a depthwise convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 5, 1, 2, groups=width)
        self.bn = nn.BatchNorm1d(width)
        self.shrink = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.glu(self.expand(self.norm(x).transpose(1, 2)), 1)
        return self.shrink(functional.silu(self.bn(self.depthwise(y)))).transpose(1, 2)


class RelativeAttention(nn.Module):
    """Transformer-XL's attention: content and position scores are summed, the latter after a shift."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.p, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.u, self.w = (nn.Parameter(torch.randn(heads, width // heads)) for _ in range(2))
        self.heads = heads

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (f(x).view(batch, length, self.heads, -1) for f in (self.q, self.k, self.v))
        p = self.p(position).view(1, 2 * length - 1, self.heads, -1).transpose(1, 2)
        content = (q + self.u).transpose(1, 2) @ k.permute(0, 2, 3, 1)
        where = (q + self.w).transpose(1, 2) @ p.transpose(-2, -1)
        where = functional.pad(where, (1, 0)).view(batch, self.heads, 2 * length, length)[:, :, 1:]
        where = where.reshape(batch, self.heads, length, 2 * length - 1)[..., :length]
        scores = ((content + where) / (width // self.heads) ** 0.5).softmax(-1)
        return self.out((scores @ v.transpose(1, 2)).transpose(1, 2).reshape(batch, length, width))


class ConformerLayer(nn.Module):
    """Half-step feed-forward, attention, convolution, half-step feed-forward, norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn1 = nn.Sequential(nn.LayerNorm(width), Mlp(width))
        self.norm = nn.LayerNorm(width)
        self.attention, self.conv = RelativeAttention(width), ConvModule(width)
        self.ffn2 = nn.Sequential(nn.LayerNorm(width), Mlp(width))
        self.final = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        x = x + 0.5 * self.ffn1(x)
        x = x + self.attention(self.norm(x), position)
        x = x + self.conv(x)
        return self.final(x + 0.5 * self.ffn2(x))


class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(20, 32)
        self.layers = nn.ModuleList(ConformerLayer(32) for _ in range(2))
        self.position = nn.Parameter(torch.randn(1, 2 * 12 - 1, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, self.position)
        return self.head(x)


class TimeBlock(nn.Module):
    """The residual block of a diffusion U-Net: group norm first, a time embedding added inside."""

    def __init__(self, width_in: int, width_out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, width_in), nn.GroupNorm(4, width_out)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, 1, 1)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1)
        self.time = nn.Linear(time, width_out)
        self.skip = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x))) + self.time(functional.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(functional.silu(self.norm2(y)))


class UNet(nn.Module):
    """Long skips by concatenation; residual blocks with and without projection on the way down and up."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.down1, self.pool1 = TimeBlock(8, 8, 16), nn.Conv2d(8, 8, 3, 2, 1)
        self.down2, self.pool2 = TimeBlock(8, 16, 16), nn.Conv2d(16, 16, 3, 2, 1)
        self.mid = TimeBlock(16, 16, 16)
        self.up2, self.up1 = TimeBlock(32, 16, 16), TimeBlock(24, 8, 16)
        self.head = nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = self.embed(time)
        a = self.down1(self.stem(x), t)
        b = self.down2(self.pool1(a), t)
        y = self.mid(self.pool2(b), t)
        y = self.up2(torch.cat([functional.interpolate(y, scale_factor=2.0), b], 1), t)
        y = self.up1(torch.cat([functional.interpolate(y, scale_factor=2.0), a], 1), t)
        return self.head(y)


class Decoder(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.shrink = conv_bn(width_in, width_out, 1)
        self.up = nn.ConvTranspose2d(width_out, width_out, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.up(functional.relu(self.shrink(x))))


class BasicBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(width_in, width_out, 3, stride), conv_bn(width_out, width_out)
        plain = stride == 1 and width_in == width_out
        self.downsample = None if plain else conv_bn(width_in, width_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.conv2(functional.relu(self.conv1(x))) + skip)


class LinkNet(nn.Module):
    """Long skips by addition around residual encoders: sums that look like blocks and are none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.enc1, self.enc2 = BasicBlock(8, 8, 1), BasicBlock(8, 16, 2)
        self.enc3 = BasicBlock(16, 32, 2)
        self.dec3, self.dec2 = Decoder(32, 16), Decoder(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enc1(functional.relu(self.stem(x)))
        b = self.enc2(a)
        y = self.dec3(self.enc3(b)) + b
        return self.head(self.dec2(y) + a)


class FeaturePyramid(nn.Module):
    """A residual backbone, a top-down feature pyramid, and a path back up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.c2, self.c3, self.c4 = BasicBlock(8, 8, 1), BasicBlock(8, 16, 2), BasicBlock(16, 32, 2)
        self.l2, self.l3, self.l4 = (nn.Conv2d(width, 8, 1) for width in (8, 16, 32))
        self.d2, self.d3 = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.c2(functional.relu(self.stem(x)))
        b = self.c3(a)
        c = self.c4(b)
        p4 = self.l4(c)
        p3 = self.l3(b) + functional.interpolate(p4, scale_factor=2.0)
        p2 = self.l2(a) + functional.interpolate(p3, scale_factor=2.0)
        n3 = p3 + self.d2(p2)
        return p2, n3, p4 + self.d3(n3)


class WideResidual(nn.Module):
    """Super-resolution body: blocks without activation after the sum, one skip over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, 1, 1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)) for _ in range(3)
        )
        self.tail = nn.Sequential(nn.Conv2d(8, 12, 3, 1, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.head(x)
        for block in self.body:
            y = y + 0.1 * block(y)
        return self.tail(first + y)


class TemporalBlock(nn.Module):
    """A temporal convolution without padding: the skip is cropped to the branch."""

    def __init__(self, width_in: int, width_out: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width_in, width_out, 3, dilation=dilation)
        self.conv2 = nn.Conv1d(width_out, width_out, 3, dilation=dilation)
        self.skip = nn.Identity() if width_in == width_out else nn.Conv1d(width_in, width_out, 1)
        self.crop = 4 * dilation

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        return functional.relu(y + self.skip(x)[:, :, self.crop :])


class TemporalNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(TemporalBlock(4, 8, 1), TemporalBlock(8, 8, 2), TemporalBlock(8, 8, 4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x)[:, :, -1])


class WaveNet(nn.Module):
    """Gated convolutions with a residual path, and a second path that sums every block's inside for the output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 1)
        self.filters = nn.ModuleList(nn.Conv1d(8, 16, 3, 1, 2**i, dilation=2**i) for i in range(3))
        self.outs = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
        self.sums = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
        self.head = nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), None
        for gate, out, part in zip(self.filters, self.outs, self.sums, strict=True):
            a, b = gate(x).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            total = part(y) if total is None else total + part(y)
            x = x + out(y)
        return self.head(functional.relu(total))


class ParallelBlock(nn.Module):
    """Attention and feed-forward side by side, both added to the input (GPT-J, PaLM)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(width), Attention(width, causal=True), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.attn(y) + self.mlp(y)


class ParallelDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.blocks = nn.ModuleList(ParallelBlock(32) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class PlainGru(nn.Module):
    """A gated recurrent cell unrolled three steps: sums of gates, no residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(8, 24), nn.Linear(8, 24)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        for step in range(3):
            xr, xz, xn = self.x(x[:, step]).chunk(3, -1)
            hr, hz, hn = self.h(h).chunk(3, -1)
            reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
            h = (1 - update) * torch.tanh(xn + reset * hn) + update * h
        return self.head(h)


class DenseNet(nn.Module):
    """Concatenation only: nothing to find."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.layers = nn.ModuleList(conv_bn(8 + 4 * i, 4) for i in range(3))
        self.head = nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        for layer in self.layers:
            x = torch.cat([x, functional.relu(layer(x))], 1)
        return self.head(x.mean((2, 3)))


class PlainCnn(nn.Module):
    """A small network of the quickstart kind: two residual blocks between plain convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 8)
        self.block1, self.block2 = BasicBlock(8, 8, 1), BasicBlock(8, 16, 2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.block1(functional.relu(self.stem(x)))).mean((2, 3)))
