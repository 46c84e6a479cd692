import pytest
import torch
from small_networks import small
from torch import nn
from torch.nn.functional import softplus

from ganmodels.losses import LOSSES
from ganmodels.networks import FAMILIES, build_discriminator, build_generator
from ganmodels.objective import DiscriminatorObjective, GeneratorObjective, Objective
from ganmodels.spec import NetworkSpec

ROWS = 6
SCALE = 1 / ROWS


class Quadratic(nn.Module):
    """D(x) = sum a x^2, whose gradient penalty is sum (2 a x)^2."""

    def __init__(self, a: torch.Tensor):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return (self.a * x.square()).sum((1, 2, 3))


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def quadratic():
    return Quadratic(drawn(1, 3, 3, seed=0))


@pytest.fixture
def real():
    return drawn(ROWS, 1, 3, 3, seed=1)


@pytest.fixture
def fake():
    return drawn(ROWS, 1, 3, 3, seed=2)


def closed_form(discriminator: Quadratic, images: torch.Tensor) -> torch.Tensor:
    return (2 * discriminator.a * images).square().sum((1, 2, 3))


@pytest.mark.parametrize(("r1", "r2"), [(0.7, 0.3), (0.7, 0.0), (0.0, 0.3)])
def test_penalties_carry_half_their_weight_times_the_period(quadratic, real, fake, r1, r2):
    objective = DiscriminatorObjective(quadratic, Objective("non_saturating", r1, r2, penalty_every=4))
    plain, _ = objective(real, fake, None, SCALE, False)
    penalised, _ = objective(real, fake, None, SCALE, True)
    expected = 4 * (r1 / 2 * closed_form(quadratic, real) + r2 / 2 * closed_form(quadratic, fake)).mean()
    torch.testing.assert_close(penalised - plain, expected, rtol=1e-12, atol=0)


def test_a_lazy_penalty_adds_up_over_its_period_to_one_of_every_step(quadratic, real, fake):
    def over_a_period(objective: Objective, penalised: list[bool]) -> list[torch.Tensor]:
        module = DiscriminatorObjective(quadratic, objective)
        total = sum(module(real, fake, None, SCALE, now)[0] for now in penalised)
        return [total.detach(), *torch.autograd.grad(total, quadratic.a)]

    lazy = over_a_period(Objective(r1=0.7, r2=0.3, penalty_every=4), [True, False, False, False])
    eager = over_a_period(Objective(r1=0.7, r2=0.3), [True] * 4)
    torch.testing.assert_close(lazy, eager, rtol=1e-12, atol=1e-12)


def test_discriminator_objective_reports_sums_over_its_rows(quadratic, real, fake):
    objective = DiscriminatorObjective(quadratic, Objective(r1=0.7, r2=0.3, penalty_every=4))
    _, sums = objective(real, fake, None, SCALE, True)
    with torch.no_grad():  # unweighted, whatever the recipe
        rows = [
            quadratic(real, None),
            quadratic(fake, None),
            closed_form(quadratic, real),
            closed_form(quadratic, fake),
        ]
    torch.testing.assert_close(sums, torch.stack([row.sum() for row in rows]), rtol=1e-12, atol=1e-12)
    assert not sums.requires_grad
    assert objective(real, fake, None, SCALE, False)[1][2:].tolist() == [0, 0]


def test_discriminator_objective_leaves_the_callers_images_alone(quadratic, real, fake):
    fake.requires_grad_()
    loss, _ = DiscriminatorObjective(quadratic, Objective(r1=1, r2=1))(real, fake, None, SCALE, True)
    loss.backward()
    assert not real.requires_grad
    assert fake.grad is None


@pytest.mark.parametrize("loss", LOSSES)
def test_generator_objective_moves_the_generator_alone(loss):
    spec = NetworkSpec("dcgan", 16, 1, width=2, z_dim=4)
    generator, discriminator = build_generator(spec), build_discriminator(spec).requires_grad_(False)
    z, real = torch.randn(ROWS, 4), torch.rand(ROWS, 1, 16, 16) * 2 - 1
    value, fake = GeneratorObjective(generator, discriminator, Objective(loss))(z, real, None, SCALE)
    value.backward()
    assert all(weight.grad is not None for weight in generator.parameters())
    assert all(weight.grad is None for weight in discriminator.parameters())
    assert not fake.requires_grad
    logits, real_logits = discriminator(generator(z)), discriminator(real)
    expected = {"non_saturating": softplus(-logits), "relativistic": softplus(real_logits - logits)}[loss].mean()
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_under_bf16_autocast_are_float32(family):
    """An unconditional discriminator's logits are bf16 there, and so would be the sums of a whole batch."""
    spec = small(family)
    generator, discriminator = build_generator(spec), build_discriminator(spec)
    recipe, real = Objective("relativistic", r1=1), torch.rand(ROWS, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_g, fake = GeneratorObjective(generator, discriminator, recipe)(torch.randn(ROWS, 4), real, None, SCALE)
        loss_d, sums = DiscriminatorObjective(discriminator, recipe)(real, fake, None, SCALE, False)
    assert (loss_g.dtype, loss_d.dtype, sums.dtype) == (torch.float32,) * 3
