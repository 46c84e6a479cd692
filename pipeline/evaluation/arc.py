"""From one latent to another."""

import torch


def arc(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Rows `(n, z)` on the way from rows of `a` to those of `b`, by shares `t` `(n, 1)`; float64.

    Directions turn evenly (Shoemake 1985), and lengths change evenly. Latents are not normalised here as StyleGAN's
    are before its mapping: between two lengths nearly equal, as those of many dimensions are, an arc stays where
    latents lie, and a straight line passes too near to the origin, where training never looked.
    """
    a, b, t = a.double(), b.double(), t.double()
    lengths = [side.norm(dim=1, keepdim=True).clamp(min=1e-12) for side in (a, b)]
    one, other = a / lengths[0], b / lengths[1]
    angle = (one * other).sum(dim=1, keepdim=True).clamp(-1, 1).acos().clamp(1e-6, torch.pi - 1e-6)
    turned = (((1 - t) * angle).sin() * one + (t * angle).sin() * other) / angle.sin()
    return turned * torch.lerp(lengths[0], lengths[1], t)
