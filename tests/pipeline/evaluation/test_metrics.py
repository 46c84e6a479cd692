"""Against closed forms, and against the same figures from torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from pipeline.evaluation.metrics import (
    frechet_distance,
    frechet_of_moments,
    kernel_distance,
    moments,
    precision_recall,
)


class Identity(torch.nn.Module):
    num_features = 20

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def with_moments(mean: np.ndarray, deviations: np.ndarray, n: int = 400) -> np.ndarray:
    """Rows whose sample mean and covariance are these, to rounding."""
    x = np.random.default_rng(0).normal(size=(n, len(mean)))
    x = np.linalg.qr(x - x.mean(0))[0] * np.sqrt(n - 1)
    return x * deviations + mean


def sets(n: int = 300, m: int = 250, d: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Two sets whose covariances do not commute."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(size=(m, d)) @ rng.normal(size=(d, d)) + 0.5


def test_frechet_of_gaussians_of_known_moments():
    a = with_moments(np.zeros(3), np.array([1.0, 2.0, 3.0]))
    b = with_moments(np.array([3.0, 0.0, 4.0]), np.array([2.0, 2.0, 1.0]))
    assert frechet_distance(a, b) == pytest.approx(25 + 1 + 0 + 4, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(300, 250), (12, 250), (12, 15)])
def test_frechet_agrees_with_torchmetrics_where_images_are_few_too(n, m):
    a, b = sets(n, m)
    theirs = FrechetInceptionDistance(feature=Identity())
    theirs.set_dtype(torch.float64)
    theirs.update(torch.from_numpy(a), real=True)
    theirs.update(torch.from_numpy(b), real=False)
    assert frechet_distance(a, b) == pytest.approx(float(theirs.compute()), rel=1e-3)


def test_frechet_does_not_change_with_a_rotation_or_the_sides():
    a, b = sets()
    turn = ortho_group.rvs(20, random_state=0)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


@pytest.mark.parametrize("d", [20, 500])
def test_rows_that_count_twice_are_rows_that_are_there_twice(d):
    a, b = sets(d=d)
    counts = np.random.default_rng(2).integers(0, 3, len(a))
    counted = frechet_of_moments(moments(a, counts), moments(b))
    assert counted == pytest.approx(frechet_distance(np.repeat(a, counts, axis=0), b), rel=1e-7)


def test_kernel_distance_agrees_with_torchmetrics():
    a, b = sets(250, 250)
    theirs = KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=250)
    theirs.update(torch.from_numpy(a), real=True)
    theirs.update(torch.from_numpy(b), real=False)
    assert kernel_distance(a, b) == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_kernel_distance_is_unbiased_whatever_the_counts():
    rng = np.random.default_rng(3)
    same = [kernel_distance(rng.normal(size=(30, 4)), rng.normal(size=(50, 4))) for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(len(same))
    assert min(same) < 0


def test_blocks_change_nothing(monkeypatch):
    a, b = sets()
    before = kernel_distance(a, b), precision_recall(a, b)
    monkeypatch.setattr("pipeline.evaluation.metrics._BLOCK", 7)
    after = kernel_distance(a, b), precision_recall(a, b)
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    assert after[1] == before[1]


def test_precision_and_recall_of_identical_and_disjoint_sets():
    a, _ = sets()
    assert precision_recall(a, a) == (1, 1)
    assert precision_recall(a, a + 1000) == (0, 0)


def test_precision_and_recall_by_hand():
    """On a line with k = 1. Radii of the real 0, 1 and 4 are 1, 1 and 3, of the fake 1.5, 10 and 11: 8.5, 1 and 1."""
    real, fake = np.array([[0.0], [1.0], [4.0]]), np.array([[1.5], [10.0], [11.0]])
    assert precision_recall(real, fake, k=1) == (pytest.approx(1 / 3), 1)
    assert precision_recall(real[:2], fake[1:], k=1) == (0, 0)


def test_a_generator_of_one_mode_is_precise_and_recalls_little():
    rng = np.random.default_rng(4)
    modes = np.concatenate([rng.normal(size=(100, 5)), rng.normal(size=(100, 5)) + 100])
    precision, recall = precision_recall(modes, rng.normal(size=(200, 5)) * 0.5)
    assert precision > 0.95
    assert 0 < recall <= 0.5


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance, precision_recall])
def test_too_few_rows_and_wrong_shapes_are_refused(metric):
    with pytest.raises(ValueError, match="give at least"):
        metric(np.ones((1, 3)), np.ones((9, 3)))
    with pytest.raises(ValueError, match="shape"):
        metric(np.ones(3), np.ones((9, 3)))
