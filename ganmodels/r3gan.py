"""R3GAN (Huang, Gokaslan, Kuleshov & Tompkin 2024): a modern baseline without normalisation or tricks.

A stage is a transition and residual blocks, and the discriminator is the generator in reverse. The weights of every
layer start so that a signal keeps its variance, and the last convolution of each block at zero: a new network is
only its transitions.
"""

import math
from itertools import pairwise

import torch
from torch import nn

from ganmodels.convolution import Conv2d
from ganmodels.rectifier import leaky_relu
from ganmodels.resample import downsample, upsample
from ganmodels.spec import NetworkSpec, pyramid

OPTIONS = {"widths", "cardinality", "blocks"}

EXPANSION = 2
EMBEDDING = 64  # of a class, beside the latent
SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # what the leaky ReLU takes from a standard deviation


class Block(nn.Module):
    """`(n, width, r, r)` to the same: 1x1 to twice the width, grouped 3x3, 1x1 back, added to the input.

    `total` is the number of blocks of the network: each starts with a share of the variance (Zhang et al. 2019).
    """

    def __init__(self, width: int, cardinality: int, total: int):
        super().__init__()
        wide = EXPANSION * width
        # A convolution's bias is the bias of the activation after it.
        self.expand = Conv2d(width, wide, 1)
        self.mix = Conv2d(wide, wide, 3, padding=1, groups=cardinality)
        self.shrink = Conv2d(wide, width, 1, bias=False)
        for conv in (self.expand, self.mix):
            _init(conv.weight, GAIN * total**-0.25)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.shrink.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = leaky_relu(self.expand(x), SLOPE, inplace=True)
        y = leaky_relu(self.mix(y), SLOPE, inplace=True)
        return x + self.shrink(y)


class Up(nn.Module):
    """`(n, a, r, r)` -> `(n, b, 2r, 2r)`."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.change = _change_of_width(a, b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upsample(self.change(x))


class Down(nn.Module):
    """`(n, a, 2r, 2r)` -> `(n, b, r, r)`."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.change = _change_of_width(a, b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(downsample(x))


class Generator(nn.Module):
    """Latents `(n, z_dim)`, labels `(n,)` int64 or None -> images `(n, channels, r, r)`, about in [-1, 1].

    Latents are multiplied by `truncation`, 0 or above, first. Nothing bounds the pixels: clamp them to show them.
    """

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        (base, first), *_ = levels = pyramid(spec)
        widths = [width for _, width in levels]
        self.embedding = nn.Embedding(spec.classes, EMBEDDING) if spec.classes else None
        self.basis = nn.Parameter(torch.randn(first, base, base))
        self.input = nn.Linear(spec.z_dim + (EMBEDDING if spec.classes else 0), first, bias=False)
        self.up = nn.ModuleList(Up(a, b) for a, b in pairwise(widths))
        self.stages = _stages(spec)
        self.output = Conv2d(widths[-1], spec.channels, 1, bias=False)
        _init(self.input.weight)
        _init(self.output.weight)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=spec.classes**-0.5)

    def forward(self, z: torch.Tensor, labels: torch.Tensor | None = None, truncation: float = 1.0) -> torch.Tensor:
        z = z * truncation
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(labels)], dim=1)
        weights = self.input(z)
        x = self.basis.to(weights.dtype) * weights[:, :, None, None]
        x = self.stages[0](x.contiguous(memory_format=torch.channels_last))
        for up, stage in zip(self.up, self.stages[1:], strict=True):
            x = stage(up(x))
        return self.output(x)


class Discriminator(nn.Module):
    """Images `(n, channels, r, r)` in [-1, 1], labels `(n,)` or None -> logits `(n,)`, real above zero."""

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        (base, last), *_ = levels = pyramid(spec)
        widths = [width for _, width in levels][::-1]
        self.input = Conv2d(spec.channels, widths[0], 1, bias=False)
        self.stages = _stages(spec)[::-1]
        self.down = nn.ModuleList(Down(a, b) for a, b in pairwise(widths))
        self.basis = nn.Parameter(torch.randn(last, base, base) / base)
        self.output = nn.Linear(last, last if spec.classes else 1, bias=False)
        self.embedding = nn.Embedding(spec.classes, last) if spec.classes else None
        _init(self.input.weight)
        _init(self.output.weight)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=(spec.classes * last) ** -0.5)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        x = self.input(x).contiguous(memory_format=torch.channels_last)
        for stage, down in zip(self.stages, self.down, strict=False):
            x = down(stage(x))
        x = self.stages[-1](x)
        x = self.output((x * self.basis.to(x.dtype)).sum((2, 3)))
        if self.embedding is not None:
            x = x * self.embedding(labels)
        return x.sum(1)


def _stages(spec: NetworkSpec) -> nn.ModuleList:
    """The blocks of each resolution, from the smallest up. Raises ValueError for a cardinality that does not divide."""
    widths = [width for _, width in pyramid(spec)]
    cardinality = spec.cardinality or tuple(map(_eighth, widths))
    if len(cardinality) != len(widths):
        raise ValueError(f"cardinality {list(cardinality)} is not one for each of the widths {widths}")
    for groups, width in zip(cardinality, widths, strict=True):
        if EXPANSION * width % groups:
            raise ValueError(f"cardinality {groups} does not divide {EXPANSION} x width {width}")
    total = spec.blocks * len(widths)
    return nn.ModuleList(
        nn.Sequential(*(Block(width, groups, total) for _ in range(spec.blocks)))
        for width, groups in zip(widths, cardinality, strict=True)
    )


def _change_of_width(a: int, b: int) -> nn.Module:
    if a == b:
        return nn.Identity()
    conv = Conv2d(a, b, 1, bias=False)
    _init(conv.weight)
    return conv


def _init(weight: torch.Tensor, gain: float = 1.0) -> None:
    """Normal, `gain / sqrt(fan-in)` wide (He et al. 2015)."""
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))


def _eighth(width: int) -> int:
    """Groups for a width that says nothing of them: an eighth of it, or the next fewer that divide its convolution."""
    return next(groups for groups in range(max(1, width // 8), 0, -1) if EXPANSION * width % groups == 0)
