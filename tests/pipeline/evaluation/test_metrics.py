"""Against closed forms, and against the same figures from torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from pipeline.evaluation.metrics import (
    Prdc,
    ball_radii,
    frechet_distance,
    frechet_of_moments,
    inception_score,
    kernel_distance,
    kernel_distance_and_error,
    kernel_row_sums,
    moments,
    prdc,
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


def test_the_kernel_distances_error_is_how_far_it_varies():
    """Over 200 draws of both sides, and of one side against two others, which share its chance."""
    rng = np.random.default_rng(6)

    def draw(others: int) -> tuple[float, float]:
        a = rng.normal(size=(40, 4))
        return kernel_distance_and_error(a, [rng.normal(size=(50, 4)) * 1.5 + 0.3 for _ in range(others)])

    for others in (1, 2):
        found = np.array([draw(others) for _ in range(200)])
        assert np.sqrt((found[:, 1] ** 2).mean()) == pytest.approx(found[:, 0].std(), rel=0.25)


def test_the_kernel_distance_with_its_error_is_the_mean_of_those_without():
    (a, b), (_, c) = sets(), sets(m=200)
    found, error = kernel_distance_and_error(a, [b, c])
    assert found == pytest.approx((kernel_distance(a, b) + kernel_distance(a, c)) / 2, rel=1e-9)
    left = [kernel_distance(np.delete(a, i, axis=0), b) for i in range(len(a))]
    right = [kernel_distance(a, np.delete(b, i, axis=0)) for i in range(len(b))]
    expected = sum((len(one) - 1) * np.var(one) for one in (left, right)) ** 0.5
    assert kernel_distance_and_error(a, [b])[1] == pytest.approx(expected, rel=1e-6)
    assert kernel_distance_and_error(a, [b], kernel_row_sums(a)) == kernel_distance_and_error(a, [b])
    assert error > 0


def test_inception_score_of_sure_and_unsure_classifiers():
    sure = np.eye(10)[np.arange(200) % 10]
    assert inception_score(sure) == pytest.approx(10)
    assert inception_score(np.eye(10)[np.zeros(50, int)]) == pytest.approx(1)
    assert inception_score(np.full((50, 10), 0.1)) == pytest.approx(1)
    half = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert inception_score(half) == pytest.approx(np.exp(0.9 * np.log(1.8) + 0.1 * np.log(0.2)))


def test_blocks_change_nothing(monkeypatch):
    a, b = sets()
    before = kernel_distance(a, b), prdc(a, b), kernel_distance_and_error(a, [b])
    monkeypatch.setattr("pipeline.evaluation.metrics._BLOCK", 7)
    after = kernel_distance(a, b), prdc(a, b), kernel_distance_and_error(a, [b])
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    assert after[1] == before[1]
    assert after[2] == pytest.approx(before[2], rel=1e-9)


def test_identical_and_disjoint_sets():
    a, _ = sets()
    same, apart = prdc(a, a), prdc(a, a + 1000)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density >= 1
    assert apart == Prdc(0, 0, 0, 0, np.empty(0))


def test_balls_by_hand():
    """On a line with k = 1. Radii of the real 0, 1 and 4 are 1, 1 and 3, of the fake 1.5, 10 and 11: 8.5, 1 and 1.

    Of the fake ones 1.5 alone lies in real balls, in those of 1 and 4.
    """
    real, fake = np.array([[0.0], [1.0], [4.0]]), np.array([[1.5], [10.0], [11.0]])
    assert prdc(real, fake, k=1) == Prdc(1 / 3, 1, 2 / 3, 2 / 3, np.empty(0))
    assert prdc(real, fake, k=1).covered.tolist() == [False, True, True]
    assert prdc(real[:2], fake[1:], k=1) == Prdc(0, 0, 0, 0, np.empty(0))


def test_the_edge_of_a_ball_is_in_it():
    """On a line with k = 1: radii of 1 and 2. The fake -1 is 1 from the real 0, and the real 1 is 2 from it."""
    real, fake = np.array([[0.0], [1.0]]), np.array([[-1.0], [-3.0]])
    assert prdc(real, fake, k=1) == Prdc(0.5, 1, 0.5, 0.5, np.empty(0))


def test_against_whole_matrices():
    """The definitions as they stand in Naeem et al. 2020, section 3, by scipy's distances."""
    a, b = sets()
    found, k = prdc(a, b, k=4), 4
    across = cdist(a, b)
    real, fake = (np.sort(cdist(side, side), axis=1)[:, k] for side in (a, b))
    assert found.precision == (across <= real[:, None]).any(axis=0).mean()
    assert found.recall == (across <= fake).any(axis=1).mean()
    assert found.density == pytest.approx((across <= real[:, None]).sum(axis=0).mean() / k, rel=1e-12)
    assert found.coverage == (across.min(axis=1) <= real).mean()
    assert prdc(a, b, k, ball_radii(a, k)) == found
    assert 0 < found.coverage < 1


def test_a_generator_of_one_mode_is_precise_and_recalls_and_covers_little():
    rng = np.random.default_rng(4)
    modes = np.concatenate([rng.normal(size=(100, 5)), rng.normal(size=(100, 5)) + 100])
    found = prdc(modes, rng.normal(size=(200, 5)) * 0.5)
    assert found.precision > 0.95
    assert found.density > 0.95
    assert 0 < found.recall <= 0.5
    assert 0 < found.coverage <= 0.5


def test_an_outlier_raises_precision_but_not_density():
    """One real row far from the rest has a ball around them all (Naeem et al. 2020, figure 2)."""
    rng = np.random.default_rng(5)
    real = np.concatenate([rng.normal(size=(200, 4)), np.full((1, 4), 60.0)])
    found = prdc(real, rng.normal(size=(200, 4)) + 8)
    assert found.precision > 0.95
    assert found.density < 0.25
    assert found.coverage < 0.05


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance, prdc])
def test_too_few_rows_and_wrong_shapes_are_refused(metric):
    with pytest.raises(ValueError, match="give at least"):
        metric(np.ones((1, 3)), np.ones((9, 3)))
    with pytest.raises(ValueError, match="shape"):
        metric(np.ones(3), np.ones((9, 3)))
