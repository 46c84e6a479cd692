"""Adversarial losses on logits, one value a row; callers take the mean over the global batch.

Each takes the logits of real and of generated rows, both `(n,)`, and returns `(n,)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from ganmodels.ranks import global_means


def non_saturating_discriminator(real: Tensor, fake: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log D(x) - log(1 - D(G(z))) with D = sigmoid(logit) (Goodfellow et al. 2014).

    Real rows are told to be real with probability `1 - label_smoothing`, in [0, 1) (Salimans et al. 2016).
    """
    return softplus(-real) + label_smoothing * real + softplus(fake)


def non_saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(G(z)) (Goodfellow et al. 2014); `real` is not used."""
    return softplus(-fake)


def saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """log(1 - D(G(z))), the generator's side of the minimax game (Goodfellow et al. 2014); `real` is not used."""
    return -softplus(fake)


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """((D(x) - 1)^2 + D(G(z))^2) / 2 (Mao et al. 2017)."""
    return ((real - 1).square() + fake.square()) / 2


def least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """(D(G(z)) - 1)^2 / 2 (Mao et al. 2017); `real` is not used."""
    return (fake - 1).square() / 2


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim & Ye 2017)."""
    return relu(1 - real) + relu(1 + fake)


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """D(G(z)) - D(x) (Arjovsky et al. 2017); wants a penalty on the slope of D."""
    return fake - real


def critic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-D(G(z)), for the hinge and the Wasserstein loss; `real` is not used."""
    return -fake


def saturating_encoding(real: Tensor, fake: Tensor) -> Tensor:
    """log D(x, E(x)) + log(1 - D(G(z), z)), the value of the game itself (Donahue et al. 2017)."""
    return -non_saturating_discriminator(real, fake)


def non_saturating_encoding(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's with the sides exchanged, for a slope where that one has none (Donahue et al. 2017)."""
    return non_saturating_discriminator(fake, real)


def least_squares_encoding(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's with the sides exchanged."""
    return least_squares_discriminator(fake, real)


def critic_encoding(real: Tensor, fake: Tensor) -> Tensor:
    """D(x, E(x)) - D(G(z), z), for the hinge and the Wasserstein loss."""
    return real - fake


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(G(z)) - D(x)), real and fake paired row by row (RpGAN, Jolicoeur-Martineau 2020)."""
    return softplus(fake - real)


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(x) - D(G(z))), real and fake paired row by row (RpGAN, Jolicoeur-Martineau 2020)."""
    return softplus(real - fake)


def relativistic_average_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Each row against the mean logit of the other kind over every rank (RaGAN, Jolicoeur-Martineau 2019)."""
    real_mean, fake_mean = global_means(real, fake)
    return softplus(fake_mean - real) + softplus(fake - real_mean)


def relativistic_average_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's with the sides exchanged (RaGAN, Jolicoeur-Martineau 2019)."""
    return relativistic_average_discriminator(fake, real)


LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {  # the discriminator's, the generator's
    "saturating": (non_saturating_discriminator, saturating_generator),
    "non_saturating": (non_saturating_discriminator, non_saturating_generator),
    "least_squares": (least_squares_discriminator, least_squares_generator),
    "hinge": (hinge_discriminator, critic_generator),
    "wasserstein": (wasserstein_discriminator, critic_generator),
    "relativistic": (relativistic_discriminator, relativistic_generator),
    "relativistic_average": (relativistic_average_discriminator, relativistic_average_generator),
}
# Of a generator and an encoder together, by the same names, against a discriminator of pairs: `real` are logits of
# images with what the encoder makes of them, `fake` of generated images with their latents (Donahue et al. 2017).
ENCODING: dict[str, Callable[..., Tensor]] = {
    "saturating": saturating_encoding,
    "non_saturating": non_saturating_encoding,
    "least_squares": least_squares_encoding,
    "hinge": critic_encoding,
    "wasserstein": critic_encoding,
    "relativistic": relativistic_generator,  # which have both sides in them
    "relativistic_average": relativistic_average_generator,
}
SMOOTHED = ("saturating", "non_saturating")  # whose discriminator takes label_smoothing


def at_least_float32(tensor: Tensor) -> Tensor:
    """bf16 holds two or three digits: too few for sums over rows or pixels."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
