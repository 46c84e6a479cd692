"""Adversarial losses on logits, one value a row; callers take the mean over the global batch."""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))) with D = sigmoid(logit) (Goodfellow et al. 2014)."""
    return softplus(-real) + softplus(fake)


def non_saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(G(z)) (Goodfellow et al. 2014); `real` is not used."""
    return softplus(-fake)


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(G(z)) - D(x)), real and fake paired row by row (RpGAN, Jolicoeur-Martineau 2020)."""
    return softplus(fake - real)


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(x) - D(G(z))), real and fake paired row by row (RpGAN, Jolicoeur-Martineau 2020)."""
    return softplus(real - fake)


LOSSES = {
    "non_saturating": (non_saturating_discriminator, non_saturating_generator),
    "relativistic": (relativistic_discriminator, relativistic_generator),
}


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """||grad_x D(x)||^2 of each row, `(n,)`: R1 on real images, R2 on fakes (Mescheder et al. 2018).

    `images` must require grad and `logits` come from them; the result can be differentiated again.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return at_least_float32(gradient).square().flatten(1).sum(1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """bf16 holds two or three digits: too few for sums over rows or pixels."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
