"""The networks as torch's tutorials would have them: contiguous float32, torch's own layers, nothing shared.

They have our networks' weights under the same names, and are the same functions.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganmodels import r3gan
from ganmodels.spec import NetworkSpec, pyramid


class DCGANGenerator(nn.Module):
    def __init__(self, spec: NetworkSpec):
        super().__init__()
        levels = pyramid(spec)[:-1]
        self.side, widths = levels[0][0], [width for _, width in levels]
        self.input, self.input_norm = nn.Linear(spec.z_dim, widths[0] * self.side**2), nn.BatchNorm2d(widths[0])
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.output = nn.ConvTranspose2d(widths[-1], spec.channels, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.input_norm(self.input(z).unflatten(1, (-1, self.side, self.side))))
        for up, norm in zip(self.up, self.norms, strict=True):
            x = F.relu(norm(up(x)))
        return torch.tanh(self.output(x))


class DCGANDiscriminator(nn.Module):
    def __init__(self, spec: NetworkSpec):
        super().__init__()
        levels = pyramid(spec)[:-1][::-1]
        widths = [spec.channels] + [width for _, width in levels]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.logit = nn.Linear(widths[-1] * levels[-1][0] ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.down:
            x = F.leaky_relu(conv(x), 0.2)
        return self.logit(x.flatten(1)).squeeze(1)


def resampled(x: Tensor, up: bool) -> Tensor:
    """By a convolution of one channel on as many planes as there are images and channels."""
    taps = x.new_tensor([1.0, 3, 3, 1]) / 8
    kernel = (taps[:, None] * taps * (4 if up else 1))[None, None]
    planes = x.reshape(-1, 1, *x.shape[2:])
    filtered = (F.conv_transpose2d if up else F.conv2d)(planes, kernel, stride=2, padding=1)
    return filtered.view(*x.shape[:2], *filtered.shape[2:])


class R3GANBlock(nn.Module):
    def __init__(self, width: int, groups: int):
        super().__init__()
        wide = r3gan.EXPANSION * width
        self.expand, self.mix = nn.Conv2d(width, wide, 1), nn.Conv2d(wide, wide, 3, padding=1, groups=groups)
        self.shrink = nn.Conv2d(wide, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.expand(x), r3gan.SLOPE)
        return x + self.shrink(F.leaky_relu(self.mix(y), r3gan.SLOPE))


class R3GANTransition(nn.Module):
    def __init__(self, a: int, b: int, up: bool):
        super().__init__()
        self.change, self.up = nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False), up

    def forward(self, x: Tensor) -> Tensor:
        return resampled(self.change(x), True) if self.up else self.change(resampled(x, False))


def _stages(spec: NetworkSpec) -> list[nn.Sequential]:
    return [nn.Sequential(*(R3GANBlock(w, w // 8) for _ in range(spec.blocks))) for _, w in pyramid(spec)]


class R3GANGenerator(nn.Module):
    def __init__(self, spec: NetworkSpec):
        super().__init__()
        widths = [width for _, width in pyramid(spec)]
        self.basis = nn.Parameter(torch.empty(widths[0], 4, 4))
        self.input = nn.Linear(spec.z_dim, widths[0], bias=False)
        self.up = nn.ModuleList(R3GANTransition(a, b, True) for a, b in pairwise(widths))
        self.stages = nn.ModuleList(_stages(spec))
        self.output = nn.Conv2d(widths[-1], spec.channels, 1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        x = self.stages[0](self.basis * self.input(z)[:, :, None, None])
        for up, stage in zip(self.up, self.stages[1:], strict=True):
            x = stage(up(x))
        return self.output(x)


class R3GANDiscriminator(nn.Module):
    def __init__(self, spec: NetworkSpec):
        super().__init__()
        widths = [width for _, width in pyramid(spec)][::-1]
        self.input = nn.Conv2d(spec.channels, widths[0], 1, bias=False)
        self.stages = nn.ModuleList(_stages(spec)[::-1])
        self.down = nn.ModuleList(R3GANTransition(a, b, False) for a, b in pairwise(widths))
        self.basis = nn.Parameter(torch.empty(widths[-1], 4, 4))
        self.output = nn.Linear(widths[-1], 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for stage, down in zip(self.stages, self.down, strict=False):
            x = down(stage(x))
        return self.output((self.stages[-1](x) * self.basis).sum((2, 3))).squeeze(1)


PLAIN = {"dcgan": (DCGANGenerator, DCGANDiscriminator), "r3gan": (R3GANGenerator, R3GANDiscriminator)}


def plain(spec: NetworkSpec, networks: tuple[nn.Module, nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with the weights of our unconditional ones."""
    pair = tuple(make(spec) for make in PLAIN[spec.family])
    for ours, theirs in zip(networks, pair, strict=True):
        weights = {name.replace("norm.running", "running"): value for name, value in ours.state_dict().items()}
        for name in [name for name in weights if name.endswith((".scale", ".shift"))]:  # one class's
            named = name.replace(".scale", ".weight").replace(".shift", ".bias")
            weights[named] = weights.pop(name).squeeze(0)
        missing, unexpected = theirs.load_state_dict(
            {name: value.contiguous() for name, value in weights.items()}, strict=False
        )
        assert not unexpected and all("num_batches_tracked" in name for name in missing)
    return pair[0], pair[1]
