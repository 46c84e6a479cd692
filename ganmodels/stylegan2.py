"""StyleGAN2 (Karras et al. 2020): skip generator, residual discriminator; classes as labels chosen among logits.

Where the noise comes from: in training each image has its own, drawn by `draw_noise` from a key and passed to the
generator. Without it the generator uses constant noise, which it keeps beside its weights: an image that is evaluated
or released depends on its latent alone, whatever the batch, the device or the number of processes.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganmodels import randomness
from ganmodels.equalized import GAIN, Conv2d, Linear, leaky_relu
from ganmodels.losses import at_least_float32
from ganmodels.ranks import sum_over_ranks
from ganmodels.resample import blur, downsample, upsample
from ganmodels.spec import NetworkSpec, pyramid

OPTIONS = {"widths", "w_dim", "mapping_layers", "group"}

MAPPING_RATE = 0.01
CENTRE_MOMENTUM = 0.005


class Mapping(nn.Module):
    """Latents `(n, z_dim)`, labels `(n,)` or None -> styles `(n, w_dim)`, in float32 under autocast too."""

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.embedding = nn.Embedding(spec.classes, spec.z_dim) if spec.classes else None
        widths = [spec.z_dim * (2 if spec.classes else 1)] + [spec.w_dim] * spec.mapping_layers
        self.layers = nn.ModuleList(Linear(a, b, gain=GAIN, rate=MAPPING_RATE) for a, b in pairwise(widths))

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):  # a style's rounding would be seen all over the image
            w = _unit_rms(z)
            if self.embedding is not None:
                w = torch.cat([w, _unit_rms(self.embedding(labels))], dim=1)
            for layer in self.layers:
                w = leaky_relu(layer(w))
            return w


class Modulated(nn.Module):
    """Maps `(n, a, r, r)` and styles `(n, w_dim)` -> `(n, b, r, r)` or, with `up`, `(n, b, 2r, 2r)`; no bias.

    Scales the input's features by a learned function of the style and, with `demodulate`, the output's back to the
    variance that it would have had. Scaling the maps rather than the weights lets all rows share one convolution.
    """

    def __init__(self, a: int, b: int, kernel: int, w_dim: int, *, up: bool = False, demodulate: bool = True):
        super().__init__()
        self.style = Linear(w_dim, a, bias=1.0)
        self.weight = nn.Parameter(torch.randn(b, a, kernel, kernel))
        self.scale = 1 / math.sqrt(a * kernel**2)
        self.up, self.demodulate = up, demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.weight * self.scale
        with torch.autocast(x.device.type, enabled=False):
            style = self.style(w)
            spread = (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt() if self.demodulate else None
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.up:
            x = blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), pad=1, gain=2)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return x if spread is None else x * spread.to(x.dtype)[:, :, None, None]


class Layer(nn.Module):
    """A modulated 3x3 convolution with noise `(n or 1, 1, r, r)`, bias and leaky ReLU."""

    noise: Tensor

    def __init__(self, a: int, b: int, side: int, w_dim: int, *, up: bool = False):
        super().__init__()
        self.conv = Modulated(a, b, 3, w_dim, up=up)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(b))
        self.register_buffer("noise", torch.randn(1, 1, side, side))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        x = self.conv(x, w)
        noise = self.noise if noise is None else noise
        added = (noise * self.strength).to(x.dtype) + self.bias.to(x.dtype)[:, None, None]
        return leaky_relu(x + added) * GAIN


class ToImage(nn.Module):
    """`(n, a, r, r)` -> this resolution's part of the image, `(n, channels, r, r)` in float32."""

    def __init__(self, a: int, channels: int, w_dim: int):
        super().__init__()
        self.conv = Modulated(a, channels, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return at_least_float32(self.conv(x, w)) + self.bias[:, None, None]


class Generator(nn.Module):
    """Latents `(n, z_dim)`, labels `(n,)` int64 or None -> images `(n, channels, r, r)`, about in [-1, 1].

    Styles go towards their centre by `truncation`: 1 leaves them, 0 gives each image the centre. `noise` is
    `draw_noise`'s; None: the constant noise. Nothing bounds the pixels: clamp them to show them. Raises ValueError
    for noise of another number of layers.
    """

    centre: Tensor

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        (base, first), *_ = levels = pyramid(spec)
        self.mapping = Mapping(spec)
        self.register_buffer("centre", torch.zeros(spec.w_dim))
        self.constant = nn.Parameter(torch.randn(1, first, base, base))
        self.layers, self.to_image = nn.ModuleList([Layer(first, first, base, spec.w_dim)]), nn.ModuleList()
        for (_, a), (side, b) in pairwise(levels):
            self.layers += [Layer(a, b, side, spec.w_dim, up=True), Layer(b, b, side, spec.w_dim)]
        self.to_image.extend(ToImage(width, spec.channels, spec.w_dim) for _, width in levels)

    def forward(
        self, z: Tensor, labels: Tensor | None = None, truncation: float = 1.0, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        w = self.mapping(z, labels)
        if self.training:
            self._move_centre(w.detach())
        if isinstance(truncation, Tensor) or truncation != 1:  # an exported graph takes it as a tensor, whatever it is
            w = self.centre.lerp(w, truncation)
        if noise is not None and len(noise) != len(self.layers):
            raise ValueError(f"{len(noise)} layers of noise for a generator of {len(self.layers)}")
        each: Iterator[Tensor | None] = repeat(None) if noise is None else iter(noise)
        x = self.constant.expand(w.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = self.layers[0](x, w, next(each))
        image = self.to_image[0](x, w)
        for up, layer, to_image in zip(self.layers[1::2], self.layers[2::2], self.to_image[1:], strict=True):
            x = layer(up(x, w, next(each)), w, next(each))
            image = upsample(image) + to_image(x, w)
        return image

    @torch.no_grad()
    def _move_centre(self, w: Tensor) -> None:
        """Follows the mean style of the global batch, so that every rank has the same centre."""
        total = sum_over_ranks(torch.cat([w.sum(0), w.new_full((1,), len(w))]))
        self.centre.lerp_((total[:-1] / total[-1]).to(self.centre.dtype), CENTRE_MOMENTUM)


class Down(nn.Module):
    """`(n, a, 2r, 2r)` -> `(n, b, r, r)`."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.conv1 = Conv2d(a, a, 3, gain=GAIN)
        self.conv2 = Conv2d(a, b, 3, gain=GAIN * math.sqrt(0.5), stride=2)  # half of the sum's variance each
        self.skip = Conv2d(a, b, 1, gain=math.sqrt(0.5), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = leaky_relu(self.conv2(blur(leaky_relu(self.conv1(x)), pad=2)))
        return y + self.skip(downsample(x))


class Discriminator(nn.Module):
    """Images `(n, channels, r, r)` in [-1, 1], labels `(n,)` or None -> logits `(n,)`, real above zero.

    The rows of each `group` look at each other: `n` must be a multiple of it, and so must a stream's rows, if the
    same rows are to meet at every world size. Raises ValueError for another `n`.
    """

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        (base, last), *_ = levels = pyramid(spec)
        widths = [width for _, width in levels][::-1]
        self.input = Conv2d(spec.channels, widths[0], 1, gain=GAIN)
        self.blocks = nn.ModuleList(Down(a, b) for a, b in pairwise(widths))
        self.conv = Conv2d(last + 1, last, 3, gain=GAIN)
        self.linear = Linear(last * base**2, last, gain=GAIN)
        self.logits = Linear(last, max(spec.classes, 1))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        x = leaky_relu(self.input(x)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        x = leaky_relu(self.conv(with_deviation(x, self.spec.group)))
        logits = self.logits(leaky_relu(self.linear(x.flatten(1))))
        if self.spec.classes:
            assert labels is not None
            logits = logits.gather(1, labels[:, None])
        return logits.squeeze(1)


def with_deviation(x: Tensor, group: int) -> Tensor:
    """`(n, c, h, w)` -> `(n, c + 1, h, w)`: the new feature is the standard deviation over `group` consecutive rows,
    averaged over features and pixels (Karras et al. 2018). Raises ValueError if `n` is not a multiple of `group`."""
    if len(x) % group:
        raise ValueError(f"{len(x)} rows do not divide into groups of {group} for the minibatch standard deviation")
    rows = at_least_float32(x).reshape(-1, group, *x.shape[1:])
    each = _deviation(rows).mean((1, 2, 3)).repeat_interleave(group)
    feature = each.to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, feature], dim=1)


def _deviation(rows: Tensor) -> Tensor:
    """`(g, group, ...)` -> `(g, ...)`: the root of each group's variance and of 1e-8, so that there is a derivative
    where rows are the same.

    As the norm that it is, which `ganmodels.kinks` knows. `var` has a second derivative that was a hundredth off in
    float32 where rows were nearly alike.
    """
    centred = (rows - rows.mean(1, keepdim=True)) / math.sqrt(rows.shape[1])
    return torch.linalg.norm(torch.cat([centred, torch.full_like(centred[:, :1], 1e-4)], dim=1), dim=1)


def draw_noise(spec: NetworkSpec, rows: int, *key: randomness.Key) -> list[Tensor]:
    """Standard normal noise for `rows` images, `(rows, 1, side, side)` for each layer of the generator."""
    draw = randomness.generator(*key)
    (base, _), *rest = pyramid(spec)
    sides = [base] + [side for side, _ in rest for _ in range(2)]
    return [torch.randn(rows, 1, side, side, generator=draw) for side in sides]


def _unit_rms(z: Tensor) -> Tensor:
    return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
