"""Distances between two sets of features, as pure functions of arrays `(n, d)`. They say nothing of images.

All of it is computed in float64. A figure means something only beside its features' name and its counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.evaluation.one_thread import one_thread

_BLOCK = 1000  # rows of a distance matrix held at a time


@dataclass(frozen=True)
class Moments:
    """Mean `(d,)` and covariance of a set of features; the latter as `(k, d)`, `k <= d`, times its transpose."""

    mean: torch.Tensor
    factor: torch.Tensor


def moments(features: np.ndarray, counts: np.ndarray | None = None) -> Moments:
    """Of features `(n, d)`; row `i` counts `counts[i]` times, once by default.

    The covariance divides by one less than the number of rows. Raises ValueError for fewer than two rows.
    """
    rows = _rows(features)
    weights = torch.ones(len(rows), dtype=torch.float64)
    if counts is not None:
        there = np.flatnonzero(counts)
        rows, weights = rows[torch.from_numpy(there)], torch.from_numpy(counts[there].astype(np.float64))
    total = float(weights.sum())
    if total < 2:
        raise ValueError(f"{total:g} rows have no covariance; give at least 2")
    mean = weights @ rows / total
    factor = (rows - mean) * (weights / (total - 1)).sqrt()[:, None]
    if len(factor) > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    return Moments(mean, factor)


def frechet_of_moments(a: Moments, b: Moments) -> float:
    """`|m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))`, at least 0.

    With `S = F^T F`, the last trace is the sum of the singular values of `F_a F_b^T`: no square root of a matrix,
    no jitter on its diagonal, and exact where there are fewer images than features.
    """
    product = a.factor @ b.factor.T
    if len(product) > product.shape[1]:
        product = product.T
    squared = torch.linalg.eigvalsh(product @ product.T)
    overlap = squared.clamp(min=0).sqrt().sum()
    apart = (a.mean - b.mean).square().sum() + a.factor.square().sum() + b.factor.square().sum()
    return max(0.0, float(apart - 2 * overlap))


@one_thread()
def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between Gaussians fitted to features `(n, d)` and `(m, d)`: 0 (same moments) upwards, symmetric.

    Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", equation 6; it is the FID only where the
    features are Inception's. Its bias falls with the counts: compare equal counts alone.
    """
    return frechet_of_moments(moments(a), moments(b))


@one_thread()
def kernel_distance(a: np.ndarray, b: np.ndarray, within_a: float | None = None) -> float:
    """Squared maximum mean discrepancy of features `(n, d)` and `(m, d)` under the kernel `(x.y / d + 1)^3`.

    Binkowski et al. 2018, "Demystifying MMD GANs", the unbiased estimate, over all rows rather than random
    subsets. 0 is expected for equal distributions, and so it can be a little below. `within_a` is what
    `kernel_within` gives for `a`, if that is known. Raises ValueError for fewer than two rows.
    """
    x, y = _rows(a), _rows(b)
    within = kernel_within(b) + (kernel_within(a) if within_a is None else within_a)
    return within - 2 * float(_cross_sums(x, y)[0].sum()) / (len(x) * len(y))


@one_thread()
def kernel_within(features: np.ndarray) -> float:
    """The part of `kernel_distance` that is of one side alone: the kernel's mean over pairs of different rows."""
    return _pair_mean(torch.from_numpy(kernel_row_sums(features)))


@one_thread()
def kernel_distance_and_error(
    a: np.ndarray, others: Sequence[np.ndarray], row_sums: np.ndarray | None = None
) -> tuple[float, float]:
    """The mean of `kernel_distance(a, b)` over the `b` of `others`, and its standard error.

    The error is the jackknife's: each row is left out once, a row of `a` from all the distances at a time, and what
    that changes is summed up (Efron & Stein 1981, "The Jackknife Estimate of Variance"; errs upwards). `row_sums` is
    what `kernel_row_sums` gives for `a`, if that is known. Raises ValueError for fewer than three rows.
    """
    own = torch.from_numpy(kernel_row_sums(a) if row_sums is None else row_sums)
    if min(len(own), *map(len, others)) < 3:
        raise ValueError("a side has too few rows for an error; give at least 3")
    n = len(own)
    values, without, error = [], torch.zeros(n, dtype=torch.float64), 0.0
    for b in others:
        theirs = torch.from_numpy(kernel_row_sums(b))
        m = len(theirs)
        x_rows, y_rows = _cross_sums(_rows(a), _rows(b))
        within_a, within_b, across = _pair_mean(own), _pair_mean(theirs), float(x_rows.sum())
        values.append(within_b + within_a - 2 * across / (n * m))
        without += _left_out(own) + within_b - 2 * (across - x_rows) / ((n - 1) * m)
        error += _jackknife(_left_out(theirs) + within_a - 2 * (across - y_rows) / (n * (m - 1)))
    error = error / len(others) ** 2 + _jackknife(without / len(others))
    return float(np.mean(values)), error**0.5


@one_thread()
def kernel_row_sums(features: np.ndarray) -> np.ndarray:
    """For each row of features `(n, d)` its kernel with all other rows, summed: `(n,)`; ValueError for one alone."""
    x = _rows(features)
    if len(x) < 2:
        raise ValueError(f"{len(x)} rows have no kernel distance; give at least 2")
    return (_cross_sums(x, x)[0] - (x.square().sum(1) / x.shape[1] + 1).pow(3)).numpy()


@dataclass(frozen=True)
class Prdc:
    """Precision, recall and coverage are shares, 0 to 1; density is 0 upwards, and 1 is expected of equal sets.

    `covered` says of each real row, `(n,)`, whether there is a fake one in its ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    covered: np.ndarray = field(repr=False, compare=False)


@one_thread()
def prdc(real: np.ndarray, fake: np.ndarray, k: int = 5, real_radii: np.ndarray | None = None) -> Prdc:
    """How far features `(n, d)` and `(m, d)` lie within each other's balls, a row's reaching to its k-th nearest other.

    Precision is the share of fake rows in a real ball, and recall that of real rows in a fake one (Kynkaanniemi et
    al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models"). Density counts the real balls
    that a fake row is in, divided by k, and coverage is the share of real balls with a fake row in them (Naeem et
    al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models"; of equal sets `1 - 2^-k` is expected).
    `real_radii` is what `ball_radii` gives for `real`, if that is known. Raises ValueError where a side has no k
    other rows.
    """
    x, y = _rows(real), _rows(fake)
    radii = torch.from_numpy(ball_radii(real, k) if real_radii is None else real_radii)
    fake_radii = torch.from_numpy(ball_radii(fake, k))
    precise = torch.zeros(len(y), dtype=torch.bool)
    recalled = balls = 0
    covered = []
    for distances, own in zip(_distances(x, y), radii.split(_BLOCK), strict=True):
        inside = distances <= own[:, None]
        precise |= inside.any(dim=0)
        balls += int(inside.sum())
        covered.append(inside.any(dim=1))
        recalled += int((distances <= fake_radii).any(dim=1).sum())
    rows = torch.cat(covered).numpy()
    return Prdc(float(precise.double().mean()), recalled / len(x), balls / (k * len(y)), float(rows.mean()), rows)


@one_thread()
def ball_radii(features: np.ndarray, k: int) -> np.ndarray:
    """From each row of features `(n, d)` to its k-th nearest other: Euclidean, `(n,)`. ValueError where it has none."""
    x = _rows(features)
    if len(x) <= k:
        raise ValueError(f"{len(x)} rows have no {k} neighbours each; give at least {k + 1}")
    # The nearest row of all is the row itself.
    return torch.cat([distances.kthvalue(k + 1, dim=1).values for distances in _distances(x, x)]).numpy()


def inception_score(probabilities: np.ndarray) -> float:
    """`exp(mean KL(p(y|x) || p(y)))` of class probabilities `(n, classes)`: 1 to the number of classes.

    Salimans et al. 2016, "Improved Techniques for Training GANs", over all rows at once rather than tenths of them.
    It says how surely and how variously a classifier sees its own classes: little of images of other things.
    """
    p = probabilities.astype(np.float64)
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(p, tiny)) - np.log(np.maximum(p.mean(axis=0), tiny))
    return float(np.exp((p * logs).sum(axis=1).mean()))


def nearest_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From each row of features `(n, d)` to the nearest of `others` `(m, d)`: Euclidean, `(n,)`."""
    return nearest_rows(rows, others)[0]


@one_thread()
def nearest_rows(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`nearest_distances`, and the place among `others` of the row that each is from: `(n,)` both."""
    nearest = [distances.min(dim=1) for distances in _distances(_rows(rows), _rows(others))]
    return torch.cat([one.values for one in nearest]).numpy(), torch.cat([one.indices for one in nearest]).numpy()


def _rows(features: np.ndarray) -> torch.Tensor:
    if features.ndim != 2:
        raise ValueError(f"features have shape {features.shape}, not (rows, dimensions)")
    return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))


def _cross_sums(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the matrix of kernels `(n, m)` the sums over its rows `(n,)` and over its columns `(m,)`."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64)
    for block in x.split(_BLOCK):
        kernels = (block @ y.T / x.shape[1] + 1).pow(3)
        rows.append(kernels.sum(dim=1))
        columns += kernels.sum(dim=0)
    return torch.cat(rows), columns


def _pair_mean(row_sums: torch.Tensor) -> float:
    return float(row_sums.sum()) / (len(row_sums) * (len(row_sums) - 1))


def _left_out(row_sums: torch.Tensor) -> torch.Tensor:
    """The kernel's mean over pairs of different rows without row `i`, for each `i`."""
    n = len(row_sums)
    return (row_sums.sum() - 2 * row_sums) / ((n - 1) * (n - 2))


def _jackknife(without: torch.Tensor) -> float:
    """The variance of a figure that is `without[i]` where row `i` is left out."""
    n = len(without)
    return float((n - 1) / n * (without - without.mean()).square().sum())


def _distances(x: torch.Tensor, y: torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of rows of the matrix of Euclidean distances."""
    for block in x.split(_BLOCK):
        yield torch.cdist(block, y)
