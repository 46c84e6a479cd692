"""How strongly to augment: p follows how sure the discriminator is of real images (Karras et al. 2020, section 3.1)."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Heuristic:
    """r_t = E[sign(D(real))] above `target` means overfitting, and p grows; below, it shrinks.

    `speed_images` is how many images p takes from 0 to 1 at most; `every_images` passes between two adjustments.
    """

    target: float = 0.6
    speed_images: float = 500_000
    every_images: int = 256


@dataclass(frozen=True)
class Strength:
    """Plain numbers, for a checkpoint: p, and what was seen since it last changed."""

    p: float = 0.0
    signs: float = 0.0  # the sum of sign(D(real))
    images: int = 0


def sign_sum(logits: Tensor) -> Tensor:
    """The sum of the signs of this rank's logits of real images, a scalar of their precision or float32.

    A sum of whole numbers: added over ranks it is exact, and so the same at every world size.
    """
    return logits.detach().sign().sum(dtype=torch.promote_types(logits.dtype, torch.float32))


def adjusted(strength: Strength, heuristic: Heuristic, signs: float, images: int) -> Strength:
    """After a step over `images` real images whose signs add up to `signs`, both over all ranks.

    Every `every_images` p moves by (images since) / `speed_images` towards overfitting's sign, and stays in [0, 1].
    """
    signs, images = strength.signs + signs, strength.images + images
    if images < heuristic.every_images:
        return replace(strength, signs=signs, images=images)
    excess = signs / images - heuristic.target
    step = math.copysign(images / heuristic.speed_images, excess) if excess else 0.0
    return Strength(p=min(max(strength.p + step, 0.0), 1.0))
