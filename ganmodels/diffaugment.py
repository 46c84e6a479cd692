"""DiffAugment (Zhao et al. 2020): every image that the discriminator sees is recoloured, shifted and cut, real or not.

`draw` makes a plan on the CPU that knows nothing of the images; `augmented` applies it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHIFT = 1 / 8  # at most, of the image's side
HOLE = 1 / 2  # of the image's side


@dataclass(frozen=True)
class DiffAugment:
    """Which of the paper's three kinds of change there are; each then happens to every image."""

    colour: bool = True
    translation: bool = True
    cutout: bool = True


@dataclass(frozen=True)
class Plan:
    """What happens to `n` images, on the CPU; None is nothing."""

    colour: Tensor | None  # (n, 3) float64: brightness to add, then what multiplies saturation, then contrast
    shift: Tensor | None  # (n, 2) int64: pixels to the right and down
    hole: Tensor | None  # (n, 2) int64: the pixel at the centre, x and y, one right of and below it for an even hole


def draw(policy: DiffAugment, rows: int, resolution: int, generators: Sequence[torch.Generator]) -> Plan:
    """The plan for `rows` images of each of `generators`, in their order.

    A generator is one stream's, keyed `(seed, step, purpose, stream)`; its rows depend on nothing else, and what
    one kind of change draws does not depend on whether there are others.
    """
    uniform = torch.cat([torch.rand(rows, 7, dtype=torch.float32, generator=draw) for draw in generators]).double()
    furthest, side = _pixels(SHIFT, resolution), _pixels(HOLE, resolution)
    colour = uniform[:, :3] * torch.tensor([1.0, 2, 1]) + torch.tensor([-0.5, 0, 0.5])
    shift = (uniform[:, 3:5] * (2 * furthest + 1)).long() - furthest
    hole = (uniform[:, 5:] * (resolution + 1 - side % 2)).long()
    return Plan(
        colour=colour if policy.colour else None,
        shift=shift if policy.translation else None,
        hole=hole if policy.cutout else None,
    )


def augmented(images: Tensor, plan: Plan) -> Tensor:
    """Images `(n, c, size, size)` in [-1, 1] under their rows of `plan`; the same shape, precision, device and layout.

    What a shift leaves empty and what a hole takes is 0. Grey images have no saturation to change; a fourth
    channel is alpha, and colour leaves it. Computed in float32 at least; can be differentiated twice.
    Raises ValueError for a plan of another number of images.
    """
    for drawn in (plan.colour, plan.shift, plan.hole):
        if drawn is not None and len(drawn) != len(images):
            raise ValueError(f"a plan for {len(drawn)} images does not fit {len(images)}")
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    if plan.colour is not None:
        wide = torch.cat([_recoloured(wide[:, :3], plan.colour), wide[:, 3:]], 1)
    if plan.shift is not None:
        wide = _shifted(wide, plan.shift.to(images.device))
    if plan.hole is not None:
        wide = wide.masked_fill(_holes(plan.hole.to(images.device), images.shape[-1])[:, None], 0)
    return wide.to(images.dtype).contiguous(memory_format=layout)


def _recoloured(images: Tensor, colour: Tensor) -> Tensor:
    brightness, saturation, contrast = colour.to(images.device, images.dtype)[..., None, None, None].unbind(1)
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * saturation
    level = grey.mean((2, 3), keepdim=True)
    return level + (images - level) * contrast


def _shifted(images: Tensor, shift: Tensor) -> Tensor:
    size = images.shape[-1]
    x, y = (torch.arange(size, device=shift.device) - shift[..., None]).unbind(1)  # where each pixel comes from
    outside = ((x < 0) | (x >= size))[:, None, :] | ((y < 0) | (y >= size))[:, :, None]
    index = y.clamp(0, size - 1)[:, :, None] * size + x.clamp(0, size - 1)[:, None, :]
    taken = images.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    return taken.view(images.shape).masked_fill(outside[:, None], 0)


def _holes(hole: Tensor, size: int) -> Tensor:
    """True `(n, size, size)` inside."""
    side = _pixels(HOLE, size)
    from_corner = torch.arange(size, device=hole.device) - (hole - side // 2)[..., None]
    x, y = ((from_corner >= 0) & (from_corner < side)).unbind(1)
    return y[:, :, None] & x[:, None, :]


def _pixels(share: float, size: int) -> int:
    return int(share * size + 0.5)
