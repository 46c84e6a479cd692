import pytest
import torch
from small_networks import small
from torch import nn

from ganmodels.losses import LOSSES, RELATIVISTIC
from ganmodels.networks import FAMILIES, build_discriminator, build_generator
from ganmodels.objective import SUMS, DiscriminatorObjective, GeneratorObjective, Objective, Views
from ganmodels.penalties import METHODS, Weights, lazily
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


MIX = torch.linspace(0.05, 0.95, ROWS, dtype=torch.float64)
NONE, EACH = Weights(), [Weights(r1=0.7), Weights(r2=0.3), Weights(gp=0.2), Weights(0.7, 0.3, 0.2)]


def charged(discriminator: Quadratic, real: torch.Tensor, fake: torch.Tensor, weights: Weights) -> torch.Tensor:
    mixed = MIX[:, None, None, None] * real + (1 - MIX[:, None, None, None]) * fake
    gp = (closed_form(discriminator, mixed).sqrt() - 1).square()
    r1, r2 = closed_form(discriminator, real), closed_form(discriminator, fake)
    return (weights.r1 / 2 * r1 + weights.r2 / 2 * r2 + weights.gp * gp).mean()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", EACH)
def test_penalties_carry_their_weight_and_r1_and_r2_half_of_it(quadratic, real, fake, weights, method):
    objective = DiscriminatorObjective(quadratic, Objective(penalty_method=method))
    plain, _ = objective(real, fake, None, SCALE, NONE, MIX)
    penalised, _ = objective(real, fake, None, SCALE, weights, MIX)
    expected = charged(quadratic, real, fake, weights)
    torch.testing.assert_close(penalised - plain, expected, rtol=1e-12, atol=1e-14)
    (slope,) = torch.autograd.grad(penalised - plain, quadratic.a)
    torch.testing.assert_close(slope, *torch.autograd.grad(expected, quadratic.a), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_lazy_penalty_adds_up_over_its_period_to_one_of_every_step(quadratic, real, fake, method):
    module = DiscriminatorObjective(quadratic, Objective(penalty_method=method))

    def over_four_steps(every: int) -> list[torch.Tensor]:
        each = [lazily(EACH[-1], step, every) for step in range(4)]
        total = sum(module(real, fake, None, SCALE, weights, MIX)[0] for weights in each)
        return [total.detach(), *torch.autograd.grad(total, quadratic.a)]

    torch.testing.assert_close(over_four_steps(4), over_four_steps(1), rtol=1e-10, atol=1e-10)


def test_discriminator_objective_reports_sums_over_its_rows(quadratic, real, fake):
    objective = DiscriminatorObjective(quadratic, Objective())
    _, sums = objective(real, fake, None, SCALE, lazily(EACH[-1], 0, 4), MIX)
    with torch.no_grad():  # unweighted, whatever the recipe
        mixed = MIX[:, None, None, None] * real + (1 - MIX[:, None, None, None]) * fake
        rows = {
            "logit_real": quadratic(real, None), "logit_fake": quadratic(fake, None),
            "sign_real": quadratic(real, None).sign(),
            "r1": closed_form(quadratic, real), "r2": closed_form(quadratic, fake),
            "gp": (closed_form(quadratic, mixed).sqrt() - 1).square(),
        }  # fmt: skip
    torch.testing.assert_close(sums, torch.stack([rows[name].sum() for name in SUMS]), rtol=1e-12, atol=1e-12)
    assert not sums.requires_grad and abs(rows["sign_real"].sum()) < ROWS
    assert objective(real, fake, None, SCALE, NONE)[1][3:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_penalties_are_on_slopes_before_the_augmentation(quadratic, real, fake, method):
    """D(2 x) has twice the slope of D at 2 x; seen through two views, each kind has its own."""
    views = Views(real=lambda images: 2 * images, fake=lambda images: images - 1)
    objective = DiscriminatorObjective(quadratic, Objective(penalty_method=method))
    mixed = MIX[:, None, None, None] * real + (1 - MIX[:, None, None, None]) * fake
    _, sums = objective(real, fake, None, SCALE, EACH[-1], MIX, views)
    with torch.no_grad():
        r1, r2, gp = (4 * closed_form(quadratic, 2 * real), closed_form(quadratic, fake - 1),
                      (2 * closed_form(quadratic, 2 * mixed).sqrt() - 1).square())  # fmt: skip
        logits = quadratic(2 * real, None), quadratic(fake - 1, None)
    expected = torch.stack([rows.sum() for rows in (*logits, logits[0].sign(), r1, r2, gp)])
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)


def test_the_generator_learns_through_the_fakes_view_and_hands_them_on_without_it(quadratic, real):
    generator = nn.Linear(4, 9).double()
    whole = nn.Module()
    whole.forward = lambda z, labels: generator(z).view(-1, 1, 3, 3)
    views, z = Views(fake=lambda images: 2 * images), drawn(ROWS, 4, seed=3)
    loss, fake = GeneratorObjective(whole, quadratic, Objective("wasserstein"))(z, real, None, SCALE, views)
    torch.testing.assert_close(loss, -quadratic(2 * whole(z, None), None).mean(), rtol=1e-12, atol=0)
    assert fake.equal(whole(z, None))


@pytest.mark.parametrize("method", METHODS)
def test_discriminator_objective_leaves_the_callers_images_alone(quadratic, real, fake, method):
    fake.requires_grad_()
    objective = DiscriminatorObjective(quadratic, Objective(penalty_method=method))
    objective(real, fake, None, SCALE, EACH[-1], MIX)[0].backward()
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
    torch.testing.assert_close(value, LOSSES[loss][1](real_logits, logits).mean())
    if loss not in RELATIVISTIC:  # and then it does not pay for it
        torch.testing.assert_close(value, LOSSES[loss][1](torch.full_like(logits, torch.nan), logits).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_under_bf16_autocast_are_float32(family):
    """An unconditional discriminator's logits are bf16 there, and so would be the sums of a whole batch."""
    spec = small(family)
    generator, discriminator = build_generator(spec), build_discriminator(spec)
    recipe, real = Objective("relativistic"), torch.rand(ROWS, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_g, fake = GeneratorObjective(generator, discriminator, recipe)(torch.randn(ROWS, 4), real, None, SCALE)
        loss_d, sums = DiscriminatorObjective(discriminator, recipe)(real, fake, None, SCALE, Weights(r1=1))
    assert (loss_g.dtype, loss_d.dtype, sums.dtype) == (torch.float32,) * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signs_of_real_logits_are_counted_exactly(dtype):
    """bf16 stops counting at 256."""

    class AsGiven(nn.Module):
        def forward(self, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
            return x.flatten()

    logits = torch.cat([torch.ones(3001), -torch.ones(1000), torch.zeros(5)]).to(dtype)[:, None, None, None]
    _, sums = DiscriminatorObjective(AsGiven(), Objective())(logits, logits, None, 1.0, Weights())
    assert sums.dtype == torch.float32 and sums[SUMS.index("sign_real")] == 2001
