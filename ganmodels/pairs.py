"""Images and their latents as one row each, for a discriminator that judges both together (BiGAN)."""

import torch
from torch import Tensor


def joined(images: Tensor, latents: Tensor) -> Tensor:
    """Images `(n, channels, r, r)` and latents `(n, z_dim)` -> `(n, channels x r x r + z_dim, 1, 1)`."""
    return torch.cat([images.flatten(1), latents], dim=1)[:, :, None, None]


def parted(pairs: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """The inverse of `joined`; `shape` is an image's, `(channels, r, r)`."""
    images, latents = pairs.flatten(1).tensor_split([shape.numel()], dim=1)
    return images.unflatten(1, shape), latents
