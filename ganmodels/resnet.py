"""A residual pair after SNGAN's (Miyato et al. 2018), with conditional batch norm in the generator.

The discriminator has no batch normalisation: it is kept smooth by its gradient penalty, or by the option of
spectral norm (see ganmodels.spectral for who turns it). Attention follows the blocks that make its feature map.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from ganmodels.attention import attention_at
from ganmodels.convolution import Conv2d
from ganmodels.norm import ConditionalBatchNorm2d
from ganmodels.rectifier import leaky_relu
from ganmodels.spec import NetworkSpec, pyramid
from ganmodels.spectral import normalise_spectrum

OPTIONS = {"widths", "spectral_norm", "attention", "bigan"}


class Up(nn.Module):
    """`(n, a, r, r)` -> `(n, b, 2r, 2r)`."""

    def __init__(self, a: int, b: int, classes: int):
        super().__init__()
        self.norm1, self.norm2 = ConditionalBatchNorm2d(a, classes), ConditionalBatchNorm2d(b, classes)
        self.conv1, self.conv2 = Conv2d(a, b, 3, padding=1), Conv2d(b, b, 3, padding=1)
        self.skip = Conv2d(a, b, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        y = F.interpolate(F.relu(self.norm1(x, labels)), scale_factor=2, mode="nearest")
        y = self.conv2(F.relu(self.norm2(self.conv1(y), labels)))
        # A 1x1 convolution commutes with nearest upsampling: a quarter of the work before it.
        return y + F.interpolate(self.skip(x), scale_factor=2, mode="nearest")


class Down(nn.Module):
    """`(n, a, 2r, 2r)` -> `(n, b, r, r)`."""

    def __init__(self, a: int, b: int, first: bool = False):
        super().__init__()
        self.first = first
        self.conv1, self.conv2 = Conv2d(a, b, 3, padding=1), Conv2d(b, b, 3, padding=1)
        self.skip = Conv2d(a, b, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(x if self.first else leaky_relu(x, 0.2))  # pixels are not rectified
        y = F.avg_pool2d(self.conv2(leaky_relu(y, 0.2, inplace=True)), 2)
        return y + self.skip(F.avg_pool2d(x, 2))


class Generator(nn.Module):
    """Latents `(n, z_dim)`, labels `(n,)` int64 or None -> images `(n, channels, r, r)` in [-1, 1].

    Latents are multiplied by `truncation` first.
    """

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        levels = pyramid(spec)
        self.base, first = levels[0]
        widths = [width for _, width in levels]
        self.input = nn.Linear(spec.z_dim, first * self.base**2)
        self.blocks = nn.ModuleList(Up(a, b, spec.classes) for a, b in pairwise(widths))
        self.attention = nn.ModuleList(attention_at(spec, side, width) for side, width in levels[1:])
        self.norm = ConditionalBatchNorm2d(widths[-1], spec.classes)
        self.output = Conv2d(widths[-1], spec.channels, 3, padding=1)
        self.apply(_init)
        if spec.spectral_norm == "both":
            normalise_spectrum(self)

    def forward(self, z: torch.Tensor, labels: torch.Tensor | None = None, truncation: float = 1.0) -> torch.Tensor:
        x = self.input(z * truncation).unflatten(1, (-1, self.base, self.base))
        x = x.contiguous(memory_format=torch.channels_last)
        for block, attention in zip(self.blocks, self.attention, strict=True):
            x = attention(block(x, labels))
        return torch.tanh(self.output(F.relu(self.norm(x, labels))))


class Tower(nn.Module):
    """What a discriminator and an encoder begin with: images `(n, channels, r, r)` -> features `(n, width)`."""

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        levels = pyramid(spec)[:-1][::-1]
        widths = [spec.channels] + [width for _, width in levels]
        self.width = widths[-1]
        self.blocks = nn.ModuleList(Down(a, b, first=index == 0) for index, (a, b) in enumerate(pairwise(widths)))
        self.attention = nn.ModuleList(attention_at(spec, side, width) for side, width in levels)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        for block, attention in zip(self.blocks, self.attention, strict=True):
            x = attention(block(x))
        return leaky_relu(x, 0.2).sum((2, 3))


class Discriminator(Tower):
    """Images `(n, channels, r, r)` in [-1, 1], labels `(n,)` or None -> logits `(n,)`, real above zero.

    With the option `bigan` it judges pairs of images and latents `(n, z_dim)`.
    """

    def __init__(self, spec: NetworkSpec):
        super().__init__(spec)
        self.logit = nn.Linear(self.width, 1)
        self.projection = nn.Embedding(spec.classes, self.width) if spec.classes else None
        self.pair = Pair(self.width, spec.z_dim) if spec.bigan else None
        self.apply(_init)
        if spec.spectral_norm != "none":
            normalise_spectrum(self)

    def forward(
        self, x: torch.Tensor, labels: torch.Tensor | None = None, z: torch.Tensor | None = None
    ) -> torch.Tensor:
        x = self.features(x)
        if self.pair is not None:
            assert z is not None
            x = self.pair(x, z)
        logits = self.logit(x).squeeze(1)
        if self.projection is not None:
            logits = logits + (self.projection(labels) * x).sum(1)
        return logits


class Pair(nn.Module):
    """Features `(n, width)` of images and latents `(n, z_dim)` -> features `(n, width)` of both together."""

    def __init__(self, width: int, z_dim: int):
        super().__init__()
        self.latent, self.both = nn.Linear(z_dim, width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        z = leaky_relu(self.latent(z), 0.2)
        return leaky_relu(self.both(torch.cat([x, z], dim=1)), 0.2)


class Encoder(Tower):
    """Images `(n, channels, r, r)` in [-1, 1] -> latents `(n, z_dim)` that the generator makes them from.

    Trained against a discriminator with the option `bigan` (Donahue, Krahenbuhl & Darrell 2017), which tells
    pairs `(image, encoder(image))` from pairs `(generator(z), z)`: when it cannot, the two are each other's inverse.
    """

    def __init__(self, spec: NetworkSpec):
        super().__init__(spec)
        self.latent = nn.Linear(self.width, spec.z_dim)
        self.apply(_init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.latent(self.features(x))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.orthogonal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
