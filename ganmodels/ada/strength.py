"""How strongly to augment: p follows how sure the discriminator is of real images (Karras et al. 2020, section 3.1)."""

import math
from dataclasses import dataclass, replace


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
    signs: float = 0.0  # the sum of sign(D(real)): of whole numbers, so exact, and the same at every world size
    images: int = 0


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
