"""Distances between two sets of features, as pure functions of arrays `(n, d)`. They say nothing of images.

All of it is computed in float64. A figure means something only beside its features' name and its counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

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
def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy of features `(n, d)` and `(m, d)` under the kernel `(x.y / d + 1)^3`.

    Binkowski et al. 2018, "Demystifying MMD GANs", the unbiased estimate, over all rows rather than random
    subsets. 0 is expected for equal distributions, and so it can be a little below. Raises ValueError for fewer
    than two rows.
    """
    x, y = _rows(a), _rows(b)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"{min(n, m)} rows have no kernel distance; give at least 2")
    within = _kernel_sum(x, x, diagonal=False) / (n * (n - 1)) + _kernel_sum(y, y, diagonal=False) / (m * (m - 1))
    return within - 2 * _kernel_sum(x, y) / (n * m)


@one_thread()
def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """The share of fake rows within the real manifold, and of real rows within the fake one, each in [0, 1].

    Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models": a manifold is
    the union of balls around its rows, each as wide as to the k-th nearest other row. Features `(n, d)` and
    `(m, d)`. Raises ValueError where a side has no k other rows.
    """
    x, y = _rows(real), _rows(fake)
    if min(len(x), len(y)) <= k:
        raise ValueError(f"{min(len(x), len(y))} rows have no {k} neighbours each; give at least {k + 1}")
    return _covered(y, x, _radii(x, k)), _covered(x, y, _radii(y, k))


@one_thread()
def nearest_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From each row of features `(n, d)` to the nearest of `others` `(m, d)`: Euclidean, `(n,)`."""
    nearest = [distances.amin(dim=1) for distances in _distances(_rows(rows), _rows(others))]
    return torch.cat(nearest).numpy()


def _rows(features: np.ndarray) -> torch.Tensor:
    if features.ndim != 2:
        raise ValueError(f"features have shape {features.shape}, not (rows, dimensions)")
    return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))


def _kernel_sum(x: torch.Tensor, y: torch.Tensor, diagonal: bool = True) -> float:
    total = sum(float((block @ y.T / x.shape[1] + 1).pow(3).sum()) for block in x.split(_BLOCK))
    return total if diagonal else total - float((x.square().sum(1) / x.shape[1] + 1).pow(3).sum())


def _distances(x: torch.Tensor, y: torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of rows of the matrix of Euclidean distances."""
    for block in x.split(_BLOCK):
        yield torch.cdist(block, y)


def _radii(x: torch.Tensor, k: int) -> torch.Tensor:
    # The nearest row of all is the row itself.
    return torch.cat([distances.kthvalue(k + 1, dim=1).values for distances in _distances(x, x)])


def _covered(x: torch.Tensor, y: torch.Tensor, radii: torch.Tensor) -> float:
    inside = [(distances <= radii).any(dim=1) for distances in _distances(x, y)]
    return float(torch.cat(inside).double().mean())
