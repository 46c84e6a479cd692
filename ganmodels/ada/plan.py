"""What is to happen to each image of a batch, drawn on the CPU before any image is seen.

The draws know nothing of the images, so real and generated ones are treated alike by construction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ganmodels.ada.colour import colour_matrix
from ganmodels.ada.geometry import rotation, scaling, translation

POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of a natural image in each of the four bands
UNIFORM, NORMAL = 29, 12  # numbers that an image's draws take, whatever then happens to it


@dataclass(frozen=True)
class Ada:
    """Each operation happens with probability p times its multiplier, independently (Karras et al. 2020, appendix B).

    The names, magnitudes and their order are the paper's. The defaults are its `bgc`: blits, geometry and colour,
    no filtering and no corruption. A product above 1 is certainty.
    """

    xflip: float = 1.0
    rotate90: float = 1.0
    xint: float = 1.0  # translation by whole pixels, up to an eighth of the image
    scale: float = 1.0
    rotate: float = 1.0
    aniso: float = 1.0  # one axis is stretched as much as the other is squeezed
    xfrac: float = 1.0  # translation by any distance, standard deviation an eighth of the image
    brightness: float = 1.0
    contrast: float = 1.0
    lumaflip: float = 1.0
    hue: float = 1.0
    saturation: float = 1.0
    imgfilter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What happens to `n` images, on the CPU; identities, gains of 1, no noise and no hole leave an image be."""

    geometry: Tensor  # (n, 3, 3) float64: where each point goes, in pixels from the centre
    colour: Tensor  # (n, 4, 4) float64
    gains: Tensor  # (n, 4) float64: of the frequency bands, the lowest first
    noisy: Tensor  # (n,) bool
    noise: Tensor  # (noisy images, channels, resolution, resolution) float32, to be added
    holes: Tensor  # (n, 2) float64: centres x, y of what is cut out, as shares of the image; infinite for no hole


class _Draws:
    """Columns of random numbers, one row an image; each generator gives the rows of its own stream."""

    def __init__(self, rows: int, generators: Sequence[torch.Generator]):
        uniform = [torch.rand(rows, UNIFORM, dtype=torch.float32, generator=draw) for draw in generators]
        normal = [torch.randn(rows, NORMAL, dtype=torch.float32, generator=draw) for draw in generators]
        self._uniform = iter(torch.cat(uniform).double().unbind(1))
        self._normal = iter(torch.cat(normal).double().unbind(1))

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * next(self._uniform)

    def sign(self) -> Tensor:
        return 1 - 2 * self.uniform(0, 2).floor()

    def normal(self, std: float) -> Tensor:
        return std * next(self._normal)

    def happens(self, probability: float) -> Tensor:
        return next(self._uniform) < probability

    def sometimes(self, probability: float, value: Tensor, otherwise: float) -> Tensor:
        return torch.where(self.happens(probability), value, otherwise)


def draw(ada: Ada, p: float, rows: int, channels: int, resolution: int, generators: Sequence[torch.Generator]) -> Plan:
    """The plan for `rows` images of each of `generators`, in their order: `rows * len(generators)` images.

    A generator is one stream's, keyed `(seed, step, purpose, stream)`; its rows depend on nothing else, and what
    one operation draws does not depend on which others happen. `p` is from 0, where nothing happens, to 1;
    raises ValueError for another.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be from 0 to 1, not {p}")
    draws = _Draws(rows, generators)
    geometry = _geometry(ada, p, resolution, draws)
    colour = colour_matrix(
        brightness=draws.sometimes(p * ada.brightness, draws.normal(0.2), 0),
        contrast=draws.sometimes(p * ada.contrast, draws.normal(0.5).exp2(), 1),
        luma=draws.sometimes(p * ada.lumaflip, draws.sign(), 1),
        hue=draws.sometimes(p * ada.hue, draws.uniform(-math.pi, math.pi), 0),
        saturation=draws.sometimes(p * ada.saturation, draws.normal(1).exp2(), 1),
    )
    gains = _gains(ada, p, draws)
    noisy, strength = draws.happens(p * ada.noise), draws.normal(0.1).abs()
    counts = noisy.view(len(generators), rows).sum(1).tolist()
    shape = channels, resolution, resolution
    noise = [torch.randn(n, *shape, dtype=torch.float32, generator=g) for n, g in zip(counts, generators, strict=True)]
    cut = draws.happens(p * ada.cutout)
    centres = torch.stack([draws.uniform(0, 1), draws.uniform(0, 1)], 1)
    return Plan(
        geometry=geometry,
        colour=colour,
        gains=gains,
        noisy=noisy,
        noise=torch.cat(noise) * strength[noisy].float()[:, None, None, None],
        holes=centres.masked_fill(~cut[:, None], math.inf),
    )


def _geometry(ada: Ada, p: float, resolution: int, draws: _Draws) -> Tensor:
    """The eight moves after each other, the first one rightmost."""
    one_of_two = 1 - math.sqrt(1 - min(p * ada.rotate, 1))  # then p is the chance of any rotation

    def offset(drawn: Sequence[Tensor], probability: float) -> Tensor:
        return translation(*torch.where(draws.happens(probability), torch.stack(list(drawn)) * resolution, 0))

    def turn() -> Tensor:
        angle = draws.sometimes(one_of_two, draws.uniform(-math.pi, math.pi), 0)
        return rotation(angle.cos(), angle.sin())

    mirror = draws.sometimes(p * ada.xflip, draws.sign(), 1)
    quarters = draws.sometimes(p * ada.rotate90, draws.uniform(0, 4), 0).long()
    cosine = torch.tensor([1.0, 0, -1, 0], dtype=torch.float64)  # exact, which the cosine of pi / 2 is not
    blits = rotation(cosine[quarters], cosine[quarters - 1]) @ scaling(mirror, torch.ones_like(mirror))
    blits = offset([draws.uniform(-1 / 8, 1 / 8) for _ in "xy"], p * ada.xint).round() @ blits
    size = draws.sometimes(p * ada.scale, draws.normal(0.2).exp2(), 1)
    before = turn()
    aspect = draws.sometimes(p * ada.aniso, draws.normal(0.2).exp2(), 1)
    after = turn()
    general = after @ scaling(aspect, 1 / aspect) @ before @ scaling(size, size)
    return offset([draws.normal(1 / 8) for _ in "xy"], p * ada.xfrac) @ general @ blits


def _gains(ada: Ada, p: float, draws: _Draws) -> Tensor:
    """Each band is amplified by itself, and the whole then scaled so that a natural image keeps its power."""
    drawn = [draws.sometimes(p * ada.imgfilter, draws.normal(1).exp2(), 1) for _ in POWER]
    gains = torch.stack(drawn, 1)
    power = 1 + torch.tensor(POWER, dtype=torch.float64) * (gains.square() - 1)
    return gains / power.sqrt().prod(1, keepdim=True)
