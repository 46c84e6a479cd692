"""Penalties on the slope of a discriminator in its input, and two ways to take them.

`exact` differentiates the gradient once more. `finite_difference` needs first derivatives only, so that it also
works on what can not be differentiated twice, such as a compiled network.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganmodels.kinks import RecordedKinks, ReplayedKinks
from ganmodels.losses import at_least_float32
from ganmodels.ranks import global_means

METHODS = ("exact", "finite_difference")

Discriminate = Callable[[Tensor], Tensor]  # images (n, channels, r, r) to logits (n,), at least float32
Charge = Callable[[Tensor], Tensor]  # squared slopes (n,) to penalties (n,)


@dataclass(frozen=True)
class Weights:
    """What a step charges, a row: `times` x (`r1` / 2 x R1 + `r2` / 2 x R2 + `gp` x WGAN-GP)."""

    r1: float = 0.0
    r2: float = 0.0
    gp: float = 0.0
    times: int = 1


def lazily(weights: Weights, step: int, every: int) -> Weights:
    """`weights` x `every` at each `every`-th step from 0 on, else nothing: the mean stays (Karras et al. 2020)."""
    return replace(weights, times=every) if step % every == 0 else Weights()


def zero_centred(squared_slopes: Tensor) -> Tensor:
    """|grad D|^2: R1 on real rows, R2 on generated ones (Mescheder et al. 2018)."""
    return squared_slopes


def one_centred(squared_slopes: Tensor) -> Tensor:
    """(|grad D| - 1)^2: WGAN-GP (Gulrajani et al. 2017). Where D is flat, its gradient is taken as zero."""
    smallest = torch.finfo(squared_slopes.dtype).tiny
    return (squared_slopes.clamp_min(smallest).sqrt() - 1).square()


def between(real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """`mix` of each real row and the rest of its fake one, where WGAN-GP is taken; `mix` `(n,)` in [0, 1)."""
    return at_least_float32(fake).lerp(at_least_float32(real), mix.to(real.dtype)[:, None, None, None])


def slopes(logits: Tensor, images: Tensor) -> Tensor:
    """The gradient of the logits' sum in `images`, which must require grad and lead to them; to be differentiated
    again."""
    return torch.autograd.grad(logits.sum(), images, create_graph=True)[0]


def charged(gradient: Tensor, charge: Charge) -> Tensor:
    """Penalties `(n,)` of slopes `(n, channels, r, r)`: of those by `slopes` the exact ones."""
    return charge(_squared_norms(gradient))


def finite_difference(discriminate: Discriminate, images: Tensor, charge: Charge) -> Tensor:
    """Penalties `(n,)` like the exact ones, whose sum has their gradient in the discriminator's weights.

    With g_i the gradient of D's sum in row i and w_i = 2 charge'(|g_i|^2) g_i, both held fixed, the gradient of the
    penalties' sum is that of D's slope along w, which is a central difference here. In float32 under any autocast, or
    wider as the images are. Every rank must call it: one step length serves all rows, so that D may look across them.
    """
    with torch.autocast(images.device.type, enabled=False):
        centre = at_least_float32(images.detach()).requires_grad_()
        with RecordedKinks() as kinks:
            logits = discriminate(centre)
        (gradient,) = torch.autograd.grad(logits.sum(), centre)
        squares = _squared_norms(gradient).requires_grad_()
        penalties = charge(squares)
        (rates,) = torch.autograd.grad(penalties.sum(), squares)
        direction = 2 * rates[:, None, None, None] * gradient
        centre, (mean_square,) = centre.detach(), global_means(direction.square().flatten(1).mean(1))
        limits = torch.finfo(centre.dtype)
        # So far moves a pixel, on average. Rounding and curvature would balance at 1 / 3, but with its kinks held
        # a network has next to no curvature.
        step = limits.eps**0.3 / mean_square.clamp_min(limits.tiny).sqrt()
        with ReplayedKinks(kinks):
            above = discriminate(centre + step * direction)
        with ReplayedKinks(kinks):
            below = discriminate(centre - step * direction)
        slopes = (above - below) / (2 * step)
        return penalties.detach() + slopes - slopes.detach()


def _squared_norms(gradient: Tensor) -> Tensor:
    return at_least_float32(gradient).square().flatten(1).sum(1)
