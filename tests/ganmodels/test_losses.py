import numpy as np
import pytest
import torch

from ganmodels.losses import LOSSES, at_least_float32, gradient_penalty

REAL = [-5.0, 1.4, 12.5, 2.7]
FAKE = [10.0, 4.4, -5.5, 3.6]


def means(loss: str) -> tuple[float, float]:
    """The generator's and the discriminator's."""
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)
    discriminator, generator = LOSSES[loss]
    return generator(real, fake).mean().item(), discriminator(real, fake).mean().item()


def test_non_saturating_gives_the_values_of_tf_gans_own_tests():
    assert means("non_saturating") == pytest.approx((1.38582, 5.83386), abs=1e-5)  # printed cut, not rounded


def test_relativistic_is_the_log_loss_of_the_paired_difference():
    difference = np.array(REAL) - np.array(FAKE)

    def log_loss(x):
        return -np.log(1 / (1 + np.exp(-x))).mean()

    assert means("relativistic") == pytest.approx((log_loss(-difference), log_loss(difference)), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_one_value_a_row_and_finite_at_extreme_logits(loss):
    extreme = torch.tensor([1e4, -1e4, 0.0])
    for function in LOSSES[loss]:
        rows = function(extreme, -extreme)
        assert rows.shape == (3,)
        assert rows.isfinite().all()


def test_gradient_penalty_and_its_gradient_match_the_closed_forms():
    """D = sum a x^2 has the gradient 2 a x, so the penalty is sum (2 a x)^2, and its gradient in a 8 a x^2."""
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(3, 4, 4, dtype=torch.float64, generator=draw, requires_grad=True)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=draw, requires_grad=True)
    penalty = gradient_penalty((a * x.square()).sum((1, 2, 3)), x)
    torch.testing.assert_close(penalty, (2 * a * x).square().sum((1, 2, 3)), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(penalty.sum(), a)
    torch.testing.assert_close(gradient, (8 * a * x.square()).sum(0), rtol=1e-12, atol=0)


def test_gradient_penalty_of_bf16_images_adds_up_in_float32():
    x = torch.ones(1, 1, 32, 32, dtype=torch.bfloat16, requires_grad=True)
    penalty = gradient_penalty((x * 1.5).float().sum((1, 2, 3)), x)
    assert penalty.dtype == torch.float32
    assert penalty.item() == 1024 * 2.25  # bf16 has no such number


@pytest.mark.parametrize(
    ("given", "kept"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2],
)
def test_at_least_float32_widens_and_never_narrows(given, kept):
    assert at_least_float32(torch.zeros(1, dtype=given)).dtype == kept
