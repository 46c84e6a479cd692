"""Exponential moving average of a network's weights and running statistics."""

import torch
from torch import nn


def ema_decay(batch: int, images: int, half_life: float, ramp: float = 0.05) -> float:
    """Decay for one step of `batch` images after `images` seen: 0.5 ** (batch / half-life).

    The half-life, in images, is at most `ramp * images` early on, so that the average forgets its
    random start (Karras et al. 2020, rampup 0.05).
    """
    half_life = min(half_life, ramp * images)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """`average <- decay * average + (1 - decay) * network`; tensors that are not floats are copied."""
    targets, sources = list(average.state_dict().values()), list(network.state_dict().values())
    floats = [(a, b) for a, b in zip(targets, sources, strict=True) if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)
    for a, b in zip(targets, sources, strict=True):
        if not a.is_floating_point():
            a.copy_(b)
