"""Objective modules: one whole loss in one `forward`, so that DDP wraps all of it.

A gradient penalty's double backward is then part of DDP's ordinary backward; a penalty-only backward
under DDP fails. Each rank returns `sum of its rows x world / global batch`: DDP's mean over the ranks
is the mean over the global batch, however unevenly the rows are spread.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganmodels.losses import LOSSES, at_least_float32, gradient_penalty


@dataclass(frozen=True)
class Objective:
    """Which loss, and the penalties' weights: `r1 / 2 * |grad D(x)|^2` every `penalty_every` steps.

    A lazy penalty is multiplied by its period, so its mean weight does not change (Karras et al. 2020).
    """

    loss: str = "non_saturating"
    r1: float = 0.0
    r2: float = 0.0
    penalty_every: int = 1


class GeneratorObjective(nn.Module):
    """`forward` returns the scalar loss, and the fakes for the discriminator's turn.

    Hold the discriminator frozen (`requires_grad_(False)`) when building and running this, so that
    its weights are neither reduced nor differentiated.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, objective: Objective):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.needs_real = objective.loss.startswith("relativistic")
        self.loss = LOSSES[objective.loss][1]

    def forward(self, z: Tensor, real: Tensor, labels: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        fake = self.generator(z, labels)
        fake_logits = at_least_float32(self.discriminator(fake, labels))
        real_logits = at_least_float32(self.discriminator(real, labels)) if self.needs_real else fake_logits
        rows = self.loss(real_logits, fake_logits)
        return rows.sum() * scale, fake.detach()


class DiscriminatorObjective(nn.Module):
    """`forward` returns the scalar loss, and row sums `(4,)` of real logit, fake logit, R1 and R2."""

    def __init__(self, discriminator: nn.Module, objective: Objective):
        super().__init__()
        self.discriminator, self.objective = discriminator, objective
        self.loss = LOSSES[objective.loss][0]

    def forward(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, scale: float, penalise: bool
    ) -> tuple[Tensor, Tensor]:
        recipe = self.objective
        with_r1, with_r2 = penalise and recipe.r1 > 0, penalise and recipe.r2 > 0
        real, fake = real.detach().requires_grad_(with_r1), fake.detach().requires_grad_(with_r2)
        real_logits = at_least_float32(self.discriminator(real, labels))
        fake_logits = at_least_float32(self.discriminator(fake, labels))
        total = self.loss(real_logits, fake_logits).sum()
        r1 = gradient_penalty(real_logits, real).sum() if with_r1 else total.new_zeros(())
        r2 = gradient_penalty(fake_logits, fake).sum() if with_r2 else total.new_zeros(())
        total = total + (recipe.r1 / 2 * r1 + recipe.r2 / 2 * r2) * recipe.penalty_every
        sums = torch.stack([real_logits.sum(), fake_logits.sum(), r1, r2]).detach()
        return total * scale, sums
