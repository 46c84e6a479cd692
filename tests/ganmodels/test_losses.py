import numpy as np
import pytest
import torch

from ganmodels.losses import ENCODING, LOSSES, SMOOTHED, at_least_float32

REAL = [-5.0, 1.4, 12.5, 2.7]
FAKE = [10.0, 4.4, -5.5, 3.6]


def means(loss: str, **options: float) -> tuple[float, float]:
    """The generator's and the discriminator's."""
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)
    discriminator, generator = LOSSES[loss]
    return generator(real, fake).mean().item(), discriminator(real, fake, **options).mean().item()


@pytest.mark.parametrize(
    ("loss", "generator", "discriminator"),
    [
        ("non_saturating", 1.38582, 5.83386),
        ("least_squares", 17.69625, 41.73375),
        ("wasserstein", -3.125, 0.225),
        ("hinge", -3.125, 6.75),
    ],
)
def test_values_are_those_of_tf_gans_own_tests(loss, generator, discriminator):
    assert means(loss) == pytest.approx((generator, discriminator), abs=1e-5)  # printed cut, not rounded


@pytest.mark.parametrize("loss", SMOOTHED)
def test_real_labels_smoothed_to_seven_eighths_give_tf_gans_value(loss):
    assert means(loss, label_smoothing=0.125)[1] == pytest.approx(6.19637, abs=1e-5)


def test_saturating_generator_gives_tf_gans_value_but_for_its_constant():
    """TF-GAN's minimax generator loss also counts real rows of logit 1."""
    constant = np.log1p(np.exp(-1))
    assert means("saturating")[0] - constant == pytest.approx(-4.82408, abs=1e-5)


def test_relativistic_average_is_the_log_loss_against_the_other_kinds_mean():
    real, fake = np.array(REAL), np.array(FAKE)

    def log_loss(one, other):
        sides = (one - other.mean(), one.mean() - other)
        return sum(-np.log(1 / (1 + np.exp(-side))).mean() for side in sides)

    expected = log_loss(fake, real), log_loss(real, fake)
    assert means("relativistic_average") == pytest.approx(expected, rel=1e-12)


def test_relativistic_is_the_log_loss_of_the_paired_difference():
    difference = np.array(REAL) - np.array(FAKE)

    def log_loss(x):
        return -np.log(1 / (1 + np.exp(-x))).mean()

    assert means("relativistic") == pytest.approx((log_loss(-difference), log_loss(difference)), rel=1e-12)


def test_a_generator_and_an_encoder_want_the_sides_exchanged():
    """What the discriminator wants of (real, fake) they want of (fake, real); the critics of the two without a hinge,
    and saturating the same value with the other sign."""
    assert ENCODING.keys() == LOSSES.keys()
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)
    for loss, both in ENCODING.items():
        expected = LOSSES[{"hinge": "wasserstein"}.get(loss, loss)][0](fake, real)
        if loss == "saturating":
            expected = -LOSSES[loss][0](real, fake)
        torch.testing.assert_close(both(real, fake), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_one_value_a_row_and_finite_at_extreme_logits(loss):
    extreme = torch.tensor([1e4, -1e4, 0.0])
    for function in LOSSES[loss]:
        rows = function(extreme, -extreme)
        assert rows.shape == (3,)
        assert rows.isfinite().all()


@pytest.mark.parametrize(
    ("given", "kept"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2],
)
def test_at_least_float32_widens_and_never_narrows(given, kept):
    assert at_least_float32(torch.zeros(1, dtype=given)).dtype == kept
