"""Alarms go off for runs that learn nothing any more, and for no others."""

import math

import pytest
import torch

from ganmodels.losses import LOSSES
from pipeline.config import Training
from pipeline.training.alarms import alarms

# Of the `mnist` preset after 2,000, 8,000 and 16,000 images.
HEALTHY = [
    {"loss_d": 1.117, "diversity": 0.195},
    {"loss_d": 0.779, "diversity": 0.943},
    {"loss_d": 0.751, "diversity": 0.851},
]
JUDGED = [loss for loss in LOSSES if loss != "wasserstein"]


def codes(means: dict[str, float], images: int = 20_000, **training: object) -> list[str]:
    return [alarm.code for alarm in alarms(means, images, Training.model_validate(training))]


def loss_d(loss: str, real: float, fake: float, label_smoothing: float = 0.0) -> float:
    smoothed = {"label_smoothing": label_smoothing} if label_smoothing else {}
    logits = torch.full((8,), real, dtype=torch.float64), torch.full((8,), fake, dtype=torch.float64)
    return LOSSES[loss][0](*logits, **smoothed).mean().item()


@pytest.mark.parametrize("means", HEALTHY)
def test_a_healthy_run_raises_none(means):
    assert codes(means) == []


@pytest.mark.parametrize("loss", JUDGED)
def test_a_discriminator_that_is_never_wrong_is_saturated_and_one_that_guesses_is_not(loss):
    real, fake = (1.0, 0.0) if loss == "least_squares" else (6.0, -6.0)
    assert codes({"loss_d": loss_d(loss, real, fake)}, loss=loss) == ["discriminator_saturated"]
    level = 0.5 if loss == "least_squares" else 0.0
    assert codes({"loss_d": loss_d(loss, level, level)}, loss=loss) == []
    # What is taken for guessing is the best without telling anything.
    guessing = loss_d(loss, level, level)
    assert min(loss_d(loss, level + shift, level + shift) for shift in (-0.01, 0.01)) >= guessing
    assert codes({"loss_d": 0.039 * guessing}, loss=loss) and not codes({"loss_d": 0.041 * guessing}, loss=loss)


@pytest.mark.parametrize(("shift", "expected"), [(0.039, ["discriminator_saturated"]), (0.041, [])])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_alarm_is_at_a_share_of_what_guessing_costs_beyond_the_labels_own_entropy(smoothing, shift, expected):
    floor = loss_d("non_saturating", math.log((1 - smoothing) / smoothing), -50.0, smoothing) if smoothing else 0.0
    loss = floor + shift * (2 * math.log(2) - floor)
    assert codes({"loss_d": loss}, label_smoothing=smoothing) == expected


def test_a_wasserstein_critic_is_not_judged():
    assert codes({"loss_d": -500.0}, loss="wasserstein") == []


def test_images_that_hardly_differ_are_a_collapse_once_training_has_begun():
    assert codes({"diversity": 0.05}) == ["collapsed"]
    assert codes({"diversity": 0.05}, images=9_999) == []
    assert codes({"diversity": 0.0, "loss_d": 0.0}) == ["discriminator_saturated", "collapsed"]


def test_what_is_not_there_or_not_a_number_is_not_judged():
    assert codes({}) == []
    assert codes({"loss_d": math.nan, "diversity": math.nan}) == []


def test_an_alarm_is_one_line_with_the_figure():
    (alarm,) = alarms({"loss_d": 0.0123}, 1, Training())
    assert "0.0123" in alarm.line and "1.39" in alarm.line and "\n" not in alarm.line
