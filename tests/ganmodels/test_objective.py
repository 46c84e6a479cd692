import pytest
import torch
from small_networks import small, well_mixed
from torch import nn

from ganmodels.losses import LOSSES, SMOOTHED
from ganmodels.networks import FAMILIES, build_discriminator, build_generator
from ganmodels.objective import AS_THEY_ARE, SUMS, AdversarialObjective, Objective, Views
from ganmodels.penalties import METHODS, Weights, lazily

ROWS = 6
SCALE = 1 / ROWS


class Quadratic(nn.Module):
    """D(x) = sum a x^2, whose gradient penalty is sum (2 a x)^2."""

    def __init__(self, a: torch.Tensor):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return (self.a * x.square()).sum((1, 2, 3))


class Given(nn.Module):
    """Generates its latents."""

    def forward(self, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return z


def judged(
    discriminator: nn.Module,
    real: torch.Tensor,
    fake: torch.Tensor,
    weights: Weights,
    mix: torch.Tensor | None = None,
    views: Views = AS_THEY_ARE,
    scale: float = SCALE,
    **recipe: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    objective = AdversarialObjective(Given(), discriminator, Objective(**recipe))
    return objective(fake, real, None, scale, weights, mix, views)


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
    plain, penalised = (judged(quadratic, real, fake, each, MIX, penalty_method=method)[0] for each in (NONE, weights))
    expected = charged(quadratic, real, fake, weights)
    torch.testing.assert_close(penalised - plain, expected, rtol=1e-12, atol=1e-14)
    (slope,) = torch.autograd.grad(penalised - plain, quadratic.a)
    torch.testing.assert_close(slope, *torch.autograd.grad(expected, quadratic.a), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_lazy_penalty_adds_up_over_its_period_to_one_of_every_step(quadratic, real, fake, method):
    def over_four_steps(every: int) -> list[torch.Tensor]:
        each = [lazily(EACH[-1], step, every) for step in range(4)]
        total = sum(judged(quadratic, real, fake, weights, MIX, penalty_method=method)[0] for weights in each)
        return [total.detach(), *torch.autograd.grad(total, quadratic.a)]

    torch.testing.assert_close(over_four_steps(4), over_four_steps(1), rtol=1e-10, atol=1e-10)


def test_sums_over_the_rows_are_reported(quadratic, real, fake):
    _, sums = judged(quadratic, real, fake, weights := lazily(EACH[-1], 0, 4), MIX)
    with torch.no_grad():  # unweighted, whatever the recipe
        mixed = MIX[:, None, None, None] * real + (1 - MIX[:, None, None, None]) * fake
        logits = quadratic(real, None), quadratic(fake, None)
        rows = {
            "loss_g": LOSSES["non_saturating"][1](*logits),
            "loss_d": LOSSES["non_saturating"][0](*logits) + 4 * charged(quadratic, real, fake, weights),
            "logit_real": quadratic(real, None), "logit_fake": quadratic(fake, None),
            "sign_real": quadratic(real, None).sign(),
            "r1": closed_form(quadratic, real), "r2": closed_form(quadratic, fake),
            "gp": (closed_form(quadratic, mixed).sqrt() - 1).square(),
        }  # fmt: skip
    torch.testing.assert_close(sums, torch.stack([rows[name].sum() for name in SUMS]), rtol=1e-12, atol=1e-12)
    assert not sums.requires_grad and abs(rows["sign_real"].sum()) < ROWS
    assert judged(quadratic, real, fake, NONE)[1][5:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_penalties_are_on_slopes_before_the_augmentation(quadratic, real, fake, method):
    """D(2 x) has twice the slope of D at 2 x; seen through two views, each kind has its own."""
    views = Views(real=lambda images: 2 * images, fake=lambda images: images - 1)
    mixed = MIX[:, None, None, None] * real + (1 - MIX[:, None, None, None]) * fake
    _, sums = judged(quadratic, real, fake, EACH[-1], MIX, views, penalty_method=method)
    with torch.no_grad():
        r1, r2, gp = (4 * closed_form(quadratic, 2 * real), closed_form(quadratic, fake - 1),
                      (2 * closed_form(quadratic, 2 * mixed).sqrt() - 1).square())  # fmt: skip
        logits = quadratic(2 * real, None), quadratic(fake - 1, None)
    expected = torch.stack([rows.sum() for rows in (*logits, logits[0].sign(), r1, r2, gp)])
    torch.testing.assert_close(sums[2:], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weights", [NONE, EACH[-1]])
def test_the_generator_learns_through_the_fakes_view(quadratic, real, weights):
    z, views = drawn(ROWS, 1, 3, 3, seed=3).requires_grad_(), Views(fake=lambda images: 2 * images)
    judged(quadratic, real, z, weights, MIX, views, loss="wasserstein")[0].backward()
    expected = torch.autograd.grad(-quadratic(2 * z, None).mean(), z)
    torch.testing.assert_close(z.grad, *expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_images_are_left_alone(quadratic, real, fake, method):
    judged(quadratic, real, fake, EACH[-1], MIX, penalty_method=method)[0].backward()
    assert not real.requires_grad and not fake.requires_grad and real.grad is None and fake.grad is None


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("weights", [NONE, Weights(r1=0.7), Weights(0.7, 0.3, 0.2)])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_backward_gives_each_side_the_gradients_of_a_turn_of_its_own(loss, weights, apart):
    """And each image is judged once, but where WGAN-GP is taken."""
    spec = small("dcgan", classes=3)
    (generator, discriminator), labels = well_mixed(spec), torch.tensor([0, 1, 2, 0, 1, 2])
    views = Views(real=lambda images: images.flip(3), fake=lambda images: images.tanh())
    smoothing = 0.2 if loss in SMOOTHED else 0.0
    z, real = drawn(ROWS, 4, seed=4), drawn(ROWS, 1, 16, 16, seed=5)

    of_g, of_d = LOSSES[loss][1], LOSSES[loss][0]
    fake = generator(z, labels)
    loss_g = of_g(discriminator(views.real(real), labels), discriminator(views.fake(fake), labels)).mean()
    expected = list(torch.autograd.grad(loss_g, list(generator.parameters())))
    share, fake = MIX[:, None, None, None], fake.detach()
    at = [each.clone().requires_grad_() for each in (real, fake, share * real + (1 - share) * fake)]
    logits = [discriminator(view(x), labels) for view, x in zip((views.real, views.fake, views.real), at, strict=True)]
    slopes = [torch.autograd.grad(of.sum(), x, create_graph=True)[0] for of, x in zip(logits, at, strict=True)]
    r1, r2, gp = (slope.square().sum((1, 2, 3)) for slope in slopes)
    loss_d = of_d(logits[0], logits[1], label_smoothing=smoothing) if smoothing else of_d(logits[0], logits[1])
    loss_d = loss_d + weights.r1 / 2 * r1 + weights.r2 / 2 * r2 + weights.gp * (gp.sqrt() - 1).square()
    expected += torch.autograd.grad(loss_d.mean(), list(discriminator.parameters()))

    calls: list[int] = []
    discriminator.register_forward_pre_hook(lambda *_: calls.append(1))
    objective = AdversarialObjective(generator, discriminator, Objective(loss, smoothing, rows_apart=apart))
    objective(z, real, labels, SCALE, weights, MIX, views)[0].backward()
    found = [weight.grad for network in (generator, discriminator) for weight in network.parameters()]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert len(calls) == 2 + (weights.gp > 0)


COMPILED_PASSES = [  # of the discriminator, beside the generator's one
    (NONE, "exact", 2), (Weights(r1=1), "exact", 1), (Weights(1, 1), "exact", 0), (Weights(gp=1), "exact", 2),
    (EACH[-1], "finite_difference", 2),
]  # fmt: skip


@pytest.mark.parametrize(("weights", "method", "passes"), COMPILED_PASSES)
def test_what_an_exact_penalty_differentiates_twice_is_not_compiled(monkeypatch, weights, method, passes):
    calls: list[nn.Module] = []

    def compiled(forward, **how):
        assert how == {"dynamic": False}
        return lambda *given, **named: calls.append(forward.__self__) or forward(*given, **named)

    monkeypatch.setattr(torch, "compile", compiled)
    generator, discriminator = well_mixed(small("dcgan"))
    objective = AdversarialObjective(generator, discriminator, Objective(penalty_method=method, compiled=True))
    objective(drawn(ROWS, 4, seed=4), drawn(ROWS, 1, 16, 16, seed=5), None, SCALE, weights, MIX)[0].backward()
    assert calls == [generator] + [discriminator] * passes


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_under_bf16_autocast_are_float32(family):
    """An unconditional discriminator's logits are bf16 there, and so would be the sums of a whole batch."""
    spec = small(family)
    objective = AdversarialObjective(build_generator(spec), build_discriminator(spec), Objective("relativistic"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, sums = objective(torch.randn(ROWS, 4), torch.rand(ROWS, 1, 16, 16), None, SCALE, Weights(r1=1))
    assert (total.dtype, sums.dtype) == (torch.float32,) * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signs_of_real_logits_are_counted_exactly(dtype):
    """bf16 stops counting at 256."""

    class AsGiven(nn.Module):
        def forward(self, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
            return x.flatten()

    logits = torch.cat([torch.ones(3001), -torch.ones(1000), torch.zeros(5)]).to(dtype)[:, None, None, None]
    _, sums = judged(AsGiven(), logits, logits, NONE, scale=1.0)
    assert sums.dtype == torch.float32 and sums[SUMS.index("sign_real")] == 2001
