"""A small convolutional pair after DCGAN (Radford, Metz & Chintala 2016).

Two departures: the generator's batch normalisation is conditional and global over the ranks, and the
discriminator has none, because a gradient penalty is per row and batch statistics would mix rows. A
conditional discriminator adds a class projection to its logit (Miyato & Koyama 2018).
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from ganmodels.convolution import Conv2d
from ganmodels.norm import ConditionalBatchNorm2d
from ganmodels.rectifier import leaky_relu
from ganmodels.spec import NetworkSpec, pyramid

OPTIONS = {"widths"}


class Generator(nn.Module):
    """Latents `(n, z_dim)`, labels `(n,)` int64 or None -> images `(n, channels, r, r)` in [-1, 1].

    Latents are multiplied by `truncation` first.
    """

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        levels = pyramid(spec)[:-1]  # the last doubling makes the image itself
        self.base, first = levels[0]
        widths = [width for _, width in levels]
        self.input = nn.Linear(spec.z_dim, first * self.base**2)
        self.input_norm = ConditionalBatchNorm2d(first, spec.classes)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(ConditionalBatchNorm2d(b, spec.classes) for b in widths[1:])
        self.output = nn.ConvTranspose2d(widths[-1], spec.channels, 4, stride=2, padding=1)
        self.apply(_init)

    def forward(self, z: torch.Tensor, labels: torch.Tensor | None = None, truncation: float = 1.0) -> torch.Tensor:
        x = self.input(z * truncation).unflatten(1, (-1, self.base, self.base))
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.input_norm(x, labels))
        for up, norm in zip(self.up, self.norms, strict=True):
            x = F.relu(norm(up(x), labels))
        return torch.tanh(self.output(x))


class Discriminator(nn.Module):
    """Images `(n, channels, r, r)` in [-1, 1], labels `(n,)` or None -> logits `(n,)`, real above zero."""

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        levels = pyramid(spec)[:-1][::-1]
        widths = [spec.channels] + [width for _, width in levels]
        base = levels[-1][0]
        self.down = nn.ModuleList(Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        features = widths[-1] * base**2
        self.logit = nn.Linear(features, 1)
        self.projection = nn.Embedding(spec.classes, features) if spec.classes else None
        self.apply(_init)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        for conv in self.down:
            x = leaky_relu(conv(x), 0.2, inplace=True)
        x = x.flatten(1)
        logits = self.logit(x).squeeze(1)
        if self.projection is not None:
            logits = logits + (self.projection(labels) * x).sum(1)
        return logits


def _init(module: nn.Module) -> None:
    """The paper's N(0, 0.02) for every weight; biases at zero."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(getattr(module, "bias", None), torch.Tensor):
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
