"""The whole step's loss in one `forward`, so that DDP wraps all of it.

Both sides move at once: the discriminator's weights are the same for its own loss and for the generator's, so it
judges each image once for both. A penalty's part of the gradients is part of DDP's ordinary backward; a penalty-only
backward under DDP fails. Each rank returns `sum of its rows x world / global batch`: DDP's mean over the ranks
is the mean over the global batch, however unevenly the rows are spread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ganmodels.losses import ENCODING, LOSSES, at_least_float32
from ganmodels.pairs import joined, parted
from ganmodels.penalties import Charge, Weights, between, charged, finite_difference, one_centred, slopes, zero_centred

View = Callable[[Tensor], Tensor]  # images `(n, channels, r, r)` to images, differentiable, drawn already
Pass = Callable[..., Tensor]  # a network's forward pass

SUMS = ("loss_g", "loss_d", "logit_real", "logit_fake", "sign_real", "r1", "r2", "gp")  # what a step reports


@dataclass(frozen=True)
class Objective:
    """Which of `losses.LOSSES`, and which of `penalties.METHODS` takes the penalties.

    `rows_apart` says that no row's logit depends on another row, which saves a pass; see `networks.rows_together`.
    `compiled` has torch compile the generator's passes, and those of the discriminator that no penalty is taken of:
    a compiled network has no second derivative, and can be silent about it.
    """

    loss: str = "non_saturating"
    label_smoothing: float = 0.0
    penalty_method: str = "exact"
    rows_apart: bool = False
    compiled: bool = False


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


def _pass(network: nn.Module, compiled: bool) -> Pass:
    """Not a module of its own: parameters keep their names."""
    return torch.compile(network.forward, dynamic=False) if compiled else partial(network)


class AdversarialObjective(nn.Module):
    """`forward` returns what to call `backward` on, and sums over the rows `(8,)` of what `SUMS` names: losses, logits,
    the signs of the real ones, and penalties, unweighted and zero where the weights are.

    The backward gives the discriminator the gradients of its loss, and the others those of theirs. The value itself
    means nothing.

    With an encoder, which moves along with the generator, the discriminator judges pairs: it is to take
    `(real, encoder(real))` for `(generator(z), z)` and the reverse (BiGAN, ALI: Donahue et al. 2017, Dumoulin et al.
    2017). Then penalties are on slopes in image and latent together, since both are what it can tell real from fake by;
    WGAN-GP's lie between two pairs in both. What the encoder sees is not augmented.
    """

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, objective: Objective, encoder: nn.Module | None = None
    ):
        super().__init__()
        self.generator, self.discriminator, self.encoder, self.objective = generator, discriminator, encoder, objective
        self.loss_d, self.loss_g = LOSSES[objective.loss]
        if objective.label_smoothing:
            self.loss_d = partial(self.loss_d, label_smoothing=objective.label_smoothing)
        if encoder is not None:
            self.loss_g = ENCODING[objective.loss]
        self.generate, self.judge_once = (_pass(each, objective.compiled) for each in (generator, discriminator))

    def forward(
        self,
        z: Tensor,
        real: Tensor,
        labels: Tensor | None,
        scale: float,
        weights: Weights,
        mix: Tensor | None = None,
        views: Views = AS_THEY_ARE,
        noise: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Tensor]:
        """`mix` `(n,)` in [0, 1) says where between real and fake WGAN-GP is taken; without `weights.gp` none.
        `noise` is what `networks.draw_noise` gives: none where the generator takes none, or has its own."""
        through: Callable[..., View] = self._through
        twice = self.objective.penalty_method == "exact"
        twice_real, twice_fake = twice and weights.r1 > 0, twice and weights.r2 > 0
        fake = self.generate(z, labels, noise=noise) if noise else self.generate(z, labels)
        if self.encoder is not None:
            through = partial(self._pairs_through, real.shape[1:])
            real, fake = joined(real, self.encoder(real)), joined(fake, z)
        on_real, on_fake = (through(self.discriminator, view, labels) for view in (views.real, views.fake))

        # The discriminator's side of the graph begins here: what its loss gives back goes no further.
        at_real = real.detach().requires_grad_(self.encoder is not None or twice_real)
        at_fake = fake.detach().requires_grad_()
        real_logits = (on_real if twice_real else through(self.judge_once, views.real, labels))(at_real)
        fake_logits = (on_fake if twice_fake else through(self.judge_once, views.fake, labels))(at_fake)

        total = self.loss_d(real_logits, fake_logits).sum()
        r1 = r2 = gp = total.new_zeros(())
        slopes_real = slopes_fake = None
        if weights.r1 > 0:
            r1, slopes_real = self._penalty(on_real, at_real, zero_centred, real_logits)
        if weights.r2 > 0:
            r2, slopes_fake = self._penalty(on_fake, at_fake, zero_centred, fake_logits)
        total = total + (weights.r1 / 2 * r1 + weights.r2 / 2 * r2) * weights.times
        if weights.gp > 0:
            assert mix is not None
            mixed = between(at_real.detach(), at_fake.detach(), mix).requires_grad_(twice)
            gp, _ = self._penalty(on_real, mixed, one_centred)
            total = total + weights.gp * gp * weights.times

        loss_g = self.loss_g(real_logits, fake_logits).sum()
        told = total * scale + self._handed_on(loss_g * scale, fake_logits, at_fake, slopes_fake, fake)
        if self.encoder is not None:
            told = told + self._handed_on(loss_g * scale, real_logits, at_real, slopes_real, real)
        sums = [loss_g, total, real_logits.sum(), fake_logits.sum(), real_logits.sign().sum(), r1, r2, gp]
        return told, torch.stack(sums).detach()

    @staticmethod
    def _through(network: Pass, view: View, labels: Tensor | None) -> View:
        return lambda images: at_least_float32(network(view(images), labels))

    @staticmethod
    def _pairs_through(shape: torch.Size, network: Pass, view: View, labels: Tensor | None) -> View:
        def judge(pairs: Tensor) -> Tensor:
            images, latents = parted(pairs, shape)
            return at_least_float32(network(view(images), labels, latents))

        return judge

    def _penalty(
        self, discriminate: View, images: Tensor, charge: Charge, logits: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Summed over the rows, and the slopes where they are known then; `logits` are those of `images` where they
        are known already."""
        if self.objective.penalty_method == "finite_difference":
            return finite_difference(discriminate, images, charge).sum(), None
        of_images = slopes(discriminate(images) if logits is None else logits, images)
        return charged(of_images, charge).sum(), of_images.detach()

    def _handed_on(self, loss: Tensor, logits: Tensor, at: Tensor, slopes_at: Tensor | None, images: Tensor) -> Tensor:
        """A value whose gradient in `images`, which are `at` with their history, is that of `loss` in `at`.

        `slopes_at` are those of the logits' sum, if anyone knows.
        """
        (rates,) = torch.autograd.grad(loss, logits, retain_graph=True)
        if self.objective.rows_apart and slopes_at is not None:
            gradient = rates[:, None, None, None] * slopes_at
        else:
            (gradient,) = torch.autograd.grad(logits, at, rates, retain_graph=True)
        return (images * gradient).sum()
