"""Penalties against closed forms, and the finite-difference ones against the exact ones."""

import copy
from dataclasses import replace

import pytest
import torch
from small_networks import small
from torch import Tensor, nn
from torch.nn import functional as F

from ganmodels.networks import FAMILIES, build_discriminator
from ganmodels.penalties import (
    Weights,
    between,
    charged,
    finite_difference,
    lazily,
    one_centred,
    slopes,
    zero_centred,
)

CHARGES = {"zero_centred": zero_centred, "one_centred": one_centred}
ROWS = 6


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def taken(method: str, discriminate, images: Tensor, charge) -> Tensor:
    if method == "finite_difference":
        return finite_difference(discriminate, images, charge)
    images = images.detach().requires_grad_()
    return charged(slopes(discriminate(images), images), charge)


@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_r1_and_its_gradient_match_the_closed_forms(method):
    """D = sum a x^2 has the gradient 2 a x, so R1 is sum (2 a x)^2, and its gradient in a 8 a x^2."""
    a, x = drawn(3, 4, 4, seed=0).requires_grad_(), drawn(5, 3, 4, 4, seed=1)
    penalty = taken(method, lambda images: (a * images.square()).sum((1, 2, 3)), x, zero_centred)
    torch.testing.assert_close(penalty, (2 * a * x).square().sum((1, 2, 3)), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(penalty.sum(), a)
    torch.testing.assert_close(gradient, (8 * a * x.square()).sum(0), rtol=1e-8, atol=0)


@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_wgan_gp_gives_the_value_of_tf_gans_own_test(method):
    """D = sum 2 x over 4 dimensions has the slope 4 everywhere."""
    x = drawn(3, 4, 1, 1, seed=0)
    penalty = taken(method, lambda images: (2 * images).sum((1, 2, 3)), x, one_centred)
    torch.testing.assert_close(penalty, torch.full((3,), 9.0, dtype=torch.float64), rtol=1e-12, atol=0)


class Smooth(nn.Module):
    """No kink anywhere, and rows that look at each other in a way of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.logit = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(5, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        x = F.softplus(self.conv(x)).mean((2, 3)) * 16
        spread = (x.var(0, correction=0) + 1e-4).sqrt().mean().expand(len(x), 1)
        return self.logit(torch.cat([x, spread], 1)).squeeze(1)


def discriminator(kind: str, **options: int) -> nn.Module:
    if kind == "smooth":
        network: nn.Module = Smooth()
    else:
        network = build_discriminator(small(kind, channels=3, width=4, max_width=8, **options))
    for weight in network.parameters():
        weight.data = drawn(*weight.shape, seed=weight.numel()) * (1.3 if kind == "stylegan2" else 0.3)
    return network.double()


def gradients(network: nn.Module, penalty: Tensor) -> Tensor:
    weights = list(network.parameters())
    found = torch.autograd.grad(penalty.sum(), weights, allow_unused=True)  # the last bias never has a part
    return torch.cat(
        [torch.zeros_like(w).flatten() if g is None else g.flatten() for g, w in zip(found, weights, strict=True)]
    )


def distance(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("charge", CHARGES.values(), ids=CHARGES)
@pytest.mark.parametrize("kind", [*FAMILIES, "smooth"])
def test_a_finite_difference_agrees_with_double_backward(kind, charge):
    network, x = discriminator(kind), drawn(ROWS, 3, 16, 16, seed=1)
    by_double = taken("exact", network, x, charge)
    by_difference = taken("finite_difference", network, x, charge)
    assert distance(by_difference, by_double) < 1e-12
    expected = gradients(network, by_double)
    assert expected.norm() > 1e-2
    assert distance(gradients(network, by_difference), expected) < 1e-8
    network.float()
    assert distance(gradients(network, taken("finite_difference", network, x.float(), charge)), expected) < 1e-4


@pytest.mark.parametrize("apart", [0.0, 1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("group", [2, 3])
def test_a_finite_difference_agrees_where_rows_are_nearly_alike(group, apart):
    """Their standard deviation is then curved as nothing else is: by up to 1e4, within 1e-4."""
    network, centre = discriminator("stylegan2", group=group), drawn(ROWS // group, 3, 16, 16, seed=1)
    x = centre.repeat_interleave(group, 0) + apart * drawn(ROWS, 3, 16, 16, seed=2)
    expected = gradients(network, taken("exact", network, x, zero_centred))
    assert distance(gradients(network, taken("finite_difference", network, x, zero_centred)), expected) < 1e-8
    rounded = network.float(), x.float()
    network = copy.deepcopy(network).double()
    expected = gradients(network, taken("exact", network, x.float().double(), zero_centred))
    for method in ("exact", "finite_difference"):
        assert distance(gradients(rounded[0], taken(method, *rounded, zero_centred)), expected) < 1e-4


def test_under_bf16_autocast_a_finite_difference_is_the_float32_one():
    network, x = discriminator("dcgan").float(), drawn(ROWS, 3, 16, 16, seed=1).bfloat16()
    plain = finite_difference(network, x.float(), zero_centred)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = finite_difference(network, x, zero_centred)
    assert cast.dtype == torch.float32 and cast.equal(plain)
    assert gradients(network, cast).equal(gradients(network, plain))


@pytest.mark.parametrize("kind", ["dcgan", "stylegan2"])
def test_a_finite_difference_works_where_double_backward_does_not(kind):
    network, x = discriminator(kind).float(), drawn(ROWS, 3, 16, 16, seed=1).float()
    expected = gradients(network, taken("exact", network, x, zero_centred))
    compiled = torch.compile(network, backend="aot_eager")
    if kind == "dcgan":
        with pytest.raises(RuntimeError, match="does not currently support double backward"):
            gradients(network, taken("exact", compiled, x, zero_centred))
    else:  # worse than an error: the penalty has no gradient
        assert gradients(network, taken("exact", compiled, x, zero_centred)).eq(0).all()
    found = gradients(network, taken("finite_difference", compiled, x, zero_centred))
    assert distance(found, expected) < 1e-4


@pytest.mark.parametrize("method", ["exact", "finite_difference"])
@pytest.mark.parametrize(("charge", "flat"), [(zero_centred, 0.0), (one_centred, 1.0)])
def test_a_flat_discriminator_has_a_penalty_and_no_gradient(method, charge, flat):
    a = torch.zeros(3, 4, 4, requires_grad=True)
    penalty = taken(method, lambda images: (a * images).sum((1, 2, 3)), torch.ones(2, 3, 4, 4), charge)
    assert penalty.tolist() == [flat, flat]
    (gradient,) = torch.autograd.grad(penalty.sum(), a)
    assert gradient.eq(0).all()


def test_penalties_of_bf16_images_add_up_in_float32():
    x = torch.ones(1, 1, 32, 32, dtype=torch.bfloat16)
    for method in ("exact", "finite_difference"):
        penalty = taken(method, lambda images: (images * 1.5).float().sum((1, 2, 3)), x, zero_centred)
        assert penalty.dtype == torch.float32
        assert penalty.item() == 1024 * 2.25  # bf16 has no such number


def test_wgan_gp_is_taken_on_the_line_between_real_and_fake():
    real, fake = torch.ones(3, 1, 2, 2), -torch.ones(3, 1, 2, 2).bfloat16()
    mixed = between(real, fake, torch.tensor([0.0, 0.25, 1.0]))
    assert mixed.dtype == torch.float32
    assert mixed[:, 0, 0, 0].tolist() == [-1, -0.5, 1]


def test_a_lazy_penalty_keeps_its_mean_weight():
    weights = Weights(r1=0.5, gp=2)
    assert [lazily(weights, step, 3).times * lazily(weights, step, 3).r1 for step in range(6)] == [1.5, 0, 0] * 2
    assert lazily(weights, 4, 1) == weights
    assert lazily(weights, 4, 2) == replace(weights, times=2)
