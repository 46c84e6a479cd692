import pytest
import torch
from small_networks import small, well_mixed, well_mixed_encoder
from torch import nn
from torch.autograd import gradcheck
from torch.nn.functional import softplus

from ganmodels.losses import ENCODING, LOSSES
from ganmodels.networks import build_discriminator, build_encoder, build_generator
from ganmodels.objective import AdversarialObjective, Objective, Views
from ganmodels.penalties import METHODS, Weights

SPEC = small("resnet", channels=3, classes=3, bigan=True)


def test_images_map_back_to_latents_and_pairs_to_logits():
    generator, discriminator = well_mixed(SPEC)
    encoder = build_encoder(SPEC).double()
    z, labels = torch.randn(4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    images = generator(z, labels)
    assert encoder(images).shape == z.shape
    logits = discriminator(images, labels, z)
    assert logits.shape == (4,)
    changed = discriminator(images, labels, torch.cat([z[:1] + 1, z[1:]]))
    assert (changed != logits).tolist() == [True, False, False, False]


def test_all_three_learn_from_one_value():
    """The minimax value of Donahue et al.: the encoder sees the discriminator through its latents, as G does."""
    networks = build_generator(SPEC), build_encoder(SPEC), build_discriminator(SPEC)
    generator, encoder, discriminator = networks
    z, labels, real = torch.randn(4, 4), torch.tensor([0, 1, 2, 0]), torch.rand(4, 3, 16, 16)
    on_real = discriminator(real, labels, encoder(real))
    on_fake = discriminator(generator(z, labels), labels, z)
    (softplus(-on_real) + softplus(on_fake)).mean().backward()
    for network in networks:
        assert all(weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_a_pairs_penalty_can_be_differentiated():
    _, discriminator = well_mixed(SPEC)
    labels, weight = torch.tensor([1, 2]), discriminator.pair.both.weight
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    z = torch.randn(2, 4, dtype=torch.float64)

    def penalty(weight: torch.Tensor) -> torch.Tensor:
        discriminate = torch.func.functional_call
        logits = discriminate(discriminator, {"pair.both.weight": weight}, (x, labels, z))
        return torch.autograd.grad(logits.sum(), x, create_graph=True)[0].square().sum()

    assert gradcheck(penalty, weight.detach().requires_grad_())


def test_networks_without_the_option_have_no_encoder():
    with pytest.raises(ValueError, match="these resnet networks have no encoder; set bigan"):
        build_encoder(small("resnet"))
    with pytest.raises(ValueError, match="r3gan networks take no bigan"):
        build_encoder(small("r3gan", bigan=True))


class Product(nn.Module):
    """D(x, z) = sum x^2 sum a z, with slopes 2 x sum a z in the image and a sum x^2 in the latent."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.linspace(0.5, 1.5, 4, dtype=torch.float64))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None, z: torch.Tensor) -> torch.Tensor:
        return x.square().sum((1, 2, 3)) * (z * self.a).sum(1)

    def squared_slopes(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        squares, times = x.square().sum((1, 2, 3)), (z * self.a).sum(1)
        return 4 * squares * times.square() + self.a.square().sum() * squares.square()


class Always(nn.Module):
    """Gives the same, whatever it is given."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *_: torch.Tensor | None) -> torch.Tensor:
        return self.answer


@pytest.mark.parametrize("method", METHODS)
def test_penalties_are_on_slopes_in_image_and_latent_together(method):
    discriminate, mix = Product(), torch.tensor([0.1, 0.6], dtype=torch.float64)
    real, fake = torch.rand(2, 2, 1, 3, 3, dtype=torch.float64)
    encoded, z = torch.randn(2, 2, 4, dtype=torch.float64)
    recipe = Objective("wasserstein", penalty_method=method)
    objective = AdversarialObjective(Always(fake), discriminate, recipe, Always(encoded))
    weights, views = Weights(r1=0.7, r2=0.3, gp=0.2), Views(real=lambda images: 2 * images)

    def loss(weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
        return objective(z, real, None, 0.5, weights, mix, views)

    def squares(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:  # seen twice as bright: D(2 x, z) = 4 D(x, z)
        return 16 * discriminate.squared_slopes(x, z)

    share = mix[:, None]
    mixed = share[:, :, None, None] * real + (1 - share[:, :, None, None]) * fake, share * encoded + (1 - share) * z
    rows = 0.35 * squares(real, encoded) + 0.15 * discriminate.squared_slopes(fake, z)
    rows = rows + 0.2 * (squares(*mixed).sqrt() - 1).square()
    (plain, sums), (penalised, _) = loss(Weights()), loss(weights)
    penalty = penalised - plain
    torch.testing.assert_close(sums[1], (discriminate(fake, None, z) - 4 * discriminate(real, None, encoded)).sum())
    torch.testing.assert_close(penalty, rows.mean(), rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(value, discriminate.a)[0] for value in (penalty, rows.mean())]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-8)  # a cubic is curved, which a difference feels


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("weights", [Weights(), Weights(0.7, 0.3)])
@pytest.mark.parametrize("loss", ENCODING)
def test_generator_and_encoder_move_together_against_the_discriminator(loss, weights, apart):
    generator, discriminator = well_mixed(SPEC)
    encoder, labels = well_mixed_encoder(SPEC), torch.tensor([0, 1, 2, 0])
    z, real = torch.randn(4, 4, dtype=torch.float64), torch.rand(4, 3, 16, 16, dtype=torch.float64)
    views = Views(real=lambda images: 2 * images, fake=lambda images: images - 1)

    fake, encoded = generator(z, labels), encoder(real)  # which sees them as they are
    logits = discriminator(2 * real, labels, encoded), discriminator(fake - 1, labels, z)
    movers = [*generator.parameters(), *encoder.parameters()]
    expected = list(torch.autograd.grad(ENCODING[loss](*logits).mean(), movers))
    at_real, at_fake = ([each.detach().requires_grad_() for each in pair] for pair in ((real, encoded), (fake, z)))
    logits = discriminator(2 * at_real[0], labels, at_real[1]), discriminator(at_fake[0] - 1, labels, at_fake[1])
    loss_d = LOSSES[loss][0](*logits).sum()
    for gamma, of, place in ((weights.r1, logits[0], at_real), (weights.r2, logits[1], at_fake)):
        slopes = torch.autograd.grad(of.sum(), place, create_graph=True)
        loss_d = loss_d + gamma / 2 * sum(slope.square().sum() for slope in slopes)
    expected += torch.autograd.grad(loss_d / 4, list(discriminator.parameters()))

    objective = AdversarialObjective(generator, discriminator, Objective(loss, rows_apart=apart), encoder)
    objective(z, real, labels, 0.25, weights, views=views)[0].backward()
    found = [weight.grad for weight in (*movers, *discriminator.parameters())]
    assert all(gradient.abs().sum() > 0 for gradient in expected[: len(movers)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_losses_of_pairs_under_bf16_autocast_are_float32():
    encoder, labels = build_encoder(SPEC), torch.tensor([0, 1, 2, 0])
    objective = AdversarialObjective(
        build_generator(SPEC), build_discriminator(SPEC), Objective("relativistic"), encoder
    )
    z, real = torch.randn(4, 4), torch.rand(4, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(real).dtype == torch.bfloat16  # else this would say nothing
        total, sums = objective(z, real, labels, 0.25, Weights(r1=1, r2=1))
    total.backward()
    assert (total.dtype, sums.dtype) == (torch.float32,) * 2
