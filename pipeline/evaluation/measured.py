"""The metrics that every evaluation has, of the other side's features against those of the held-out images."""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.evaluation.bootstrap import share_interval
from pipeline.evaluation.metrics import (
    ball_radii,
    frechet_of_moments,
    inception_score,
    kernel_distance_and_error,
    kernel_row_sums,
    moments,
    prdc,
)
from pipeline.evaluation.one_thread import one_thread

NEIGHBOURS = 5  # that reach the edge of an image's ball, as Naeem et al. 2020 chose it
HOW = {
    "kernel_standard_error": "jackknife",
    "inception_score": "all images at once",
    **dict.fromkeys(("precision", "recall", "density", "coverage"), f"k {NEIGHBOURS}"),
    **dict.fromkeys(("coverage_low", "coverage_high"), f"k {NEIGHBOURS}, 95 % by bootstrap of the held-out images"),
}


class Against:
    """Measures others against features `(n, d)`; what concerns these alone is computed once.

    `probabilities` gives class probabilities `(m, classes)` of features, or None where they do not classify.
    """

    @one_thread()
    def __init__(self, features: np.ndarray, probabilities: Callable[[np.ndarray], np.ndarray | None]):
        self.features, self.probabilities = features, probabilities
        self.moments, self.row_sums = moments(features), kernel_row_sums(features)
        self.radii = ball_radii(features, NEIGHBOURS)

    @one_thread()
    def measure(self, others: Sequence[np.ndarray]) -> tuple[dict[str, float], list[float]]:
        """The means over `others` `(m, d)` each, and the Frechet distance of each.

        The interval of the coverage is that over held-out images like these; generated images and balls stay as they
        are.
        """
        frechet = [frechet_of_moments(self.moments, moments(other)) for other in others]
        kernel, error = kernel_distance_and_error(self.features, others, self.row_sums)
        balls = [prdc(self.features, other, NEIGHBOURS, self.radii) for other in others]
        shares = {
            key: float(np.mean([getattr(one, key) for one in balls]))
            for key in ("precision", "recall", "density", "coverage")
        }
        low, high = share_interval(np.mean([one.covered for one in balls], axis=0))
        classified = [p for p in map(self.probabilities, others) if p is not None]
        scores = {"inception_score": float(np.mean([inception_score(p) for p in classified]))} if classified else {}
        means = {
            "frechet": float(np.mean(frechet)),
            "kernel": kernel,
            "kernel_standard_error": error,
            **shares,
            "coverage_low": low,
            "coverage_high": high,
            **scores,
        }
        return means, frechet
