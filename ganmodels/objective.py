"""Objective modules: one whole loss in one `forward`, so that DDP wraps all of it.

A penalty's part of the gradients is then part of DDP's ordinary backward; a penalty-only backward
under DDP fails. Each rank returns `sum of its rows x world / global batch`: DDP's mean over the ranks
is the mean over the global batch, however unevenly the rows are spread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ganmodels.losses import ENCODING, LOSSES, RELATIVISTIC, at_least_float32
from ganmodels.pairs import joined, parted
from ganmodels.penalties import Charge, Weights, between, exact, finite_difference, one_centred, zero_centred

View = Callable[[Tensor], Tensor]  # images `(n, channels, r, r)` to images, differentiable, drawn already

SUMS = ("logit_real", "logit_fake", "sign_real", "r1", "r2", "gp")  # what a discriminator's turn reports


@dataclass(frozen=True)
class Objective:
    """Which of `losses.LOSSES`, and which of `penalties.METHODS` takes the penalties."""

    loss: str = "non_saturating"
    label_smoothing: float = 0.0
    penalty_method: str = "exact"


def plainly(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class Views:
    """How the discriminator sees images: augmented, or as they are. Penalties are on slopes in the images
    before that; those between real and fake are seen through the real ones' view.
    """

    real: View = plainly
    fake: View = plainly


AS_THEY_ARE = Views()


class GeneratorObjective(nn.Module):
    """`forward` returns the scalar loss, and the fakes for the discriminator's turn.

    Hold the discriminator frozen (`requires_grad_(False)`) when building and running this, so that
    its weights are neither reduced nor differentiated.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, objective: Objective):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.needs_real = objective.loss in RELATIVISTIC
        self.loss = LOSSES[objective.loss][1]

    def forward(
        self,
        z: Tensor,
        real: Tensor,
        labels: Tensor | None,
        scale: float,
        views: Views = AS_THEY_ARE,
        noise: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Tensor]:
        """`noise` is what `networks.draw_noise` gives: none where the generator takes none, or has its own."""
        fake = self.generator(z, labels, noise=noise) if noise else self.generator(z, labels)
        fake_logits = at_least_float32(self.discriminator(views.fake(fake), labels))
        real_logits = fake_logits
        if self.needs_real:
            real_logits = at_least_float32(self.discriminator(views.real(real), labels))
        rows = self.loss(real_logits, fake_logits)
        return rows.sum() * scale, fake.detach()


class EncodingObjective(nn.Module):
    """The turn of a generator and an encoder together, against a discriminator of pairs (BiGAN, ALI: Donahue et al.
    2017, Dumoulin et al. 2017), which is to take `(real, encoder(real))` for `(generator(z), z)` and the reverse.

    `forward` returns the scalar loss, and for the discriminator's turn the fakes and the real rows' latents. What the
    encoder sees is not augmented. Hold the discriminator frozen as for `GeneratorObjective`.
    """

    def __init__(self, generator: nn.Module, encoder: nn.Module, discriminator: nn.Module, objective: Objective):
        super().__init__()
        self.generator, self.encoder, self.discriminator = generator, encoder, discriminator
        self.loss = ENCODING[objective.loss]

    def forward(
        self,
        z: Tensor,
        real: Tensor,
        labels: Tensor | None,
        scale: float,
        views: Views = AS_THEY_ARE,
        noise: Sequence[Tensor] = (),
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`noise` as for `GeneratorObjective`."""
        fake = self.generator(z, labels, noise=noise) if noise else self.generator(z, labels)
        encoded = self.encoder(real)
        fake_logits = at_least_float32(self.discriminator(views.fake(fake), labels, z))
        real_logits = at_least_float32(self.discriminator(views.real(real), labels, encoded))
        rows = self.loss(real_logits, fake_logits)
        return rows.sum() * scale, (fake.detach(), encoded.detach())


class DiscriminatorObjective(nn.Module):
    """`forward` returns the scalar loss, and sums over the rows `(6,)` of what `SUMS` names: logits, the signs of
    the real ones, and penalties, unweighted and zero where the weights are.

    With `latents`, those of the real and of the fake rows, it judges pairs. Then penalties are on slopes in image and
    latent together, since both are what it can tell real from fake by; WGAN-GP's lie between two pairs in both.
    """

    def __init__(self, discriminator: nn.Module, objective: Objective):
        super().__init__()
        self.discriminator, self.objective = discriminator, objective
        self.loss = LOSSES[objective.loss][0]
        if objective.label_smoothing:
            self.loss = partial(self.loss, label_smoothing=objective.label_smoothing)

    def forward(
        self,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None,
        scale: float,
        weights: Weights,
        mix: Tensor | None = None,
        views: Views = AS_THEY_ARE,
        latents: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`mix` `(n,)` in [0, 1) says where between real and fake WGAN-GP is taken; without `weights.gp` none."""
        through = self._through
        if latents is not None:
            through = partial(self._pairs_through, real.shape[1:])
            real, fake = joined(real, latents[0]), joined(fake, latents[1])
        on_real, on_fake = through(views.real, labels), through(views.fake, labels)
        twice = self.objective.penalty_method == "exact"
        real, fake = real.detach(), fake.detach()
        real.requires_grad_(twice and weights.r1 > 0)
        fake.requires_grad_(twice and weights.r2 > 0)
        real_logits, fake_logits = on_real(real), on_fake(fake)
        total = self.loss(real_logits, fake_logits).sum()
        r1 = r2 = gp = total.new_zeros(())
        if weights.r1 > 0:
            r1 = self._penalty(on_real, real, zero_centred, real_logits)
        if weights.r2 > 0:
            r2 = self._penalty(on_fake, fake, zero_centred, fake_logits)
        total = total + (weights.r1 / 2 * r1 + weights.r2 / 2 * r2) * weights.times
        if weights.gp > 0:
            assert mix is not None
            mixed = between(real.detach(), fake.detach(), mix).requires_grad_(twice)
            gp = self._penalty(on_real, mixed, one_centred)
            total = total + weights.gp * gp * weights.times
        sums = [real_logits.sum(), fake_logits.sum(), real_logits.sign().sum(), r1, r2, gp]
        return total * scale, torch.stack(sums).detach()

    def _through(self, view: View, labels: Tensor | None) -> View:
        return lambda images: at_least_float32(self.discriminator(view(images), labels))

    def _pairs_through(self, shape: torch.Size, view: View, labels: Tensor | None) -> View:
        def judge(pairs: Tensor) -> Tensor:
            images, latents = parted(pairs, shape)
            return at_least_float32(self.discriminator(view(images), labels, latents))

        return judge

    def _penalty(self, discriminate: View, images: Tensor, charge: Charge, logits: Tensor | None = None) -> Tensor:
        """Summed over the rows; `logits` are those of `images` where they are known already."""
        if self.objective.penalty_method == "finite_difference":
            return finite_difference(discriminate, images, charge).sum()
        return exact(discriminate(images) if logits is None else logits, images, charge).sum()
