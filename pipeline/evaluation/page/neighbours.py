"""The generated images that are nearest to a training image, beside it: would anybody call one a copy?"""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.metrics import nearest_rows
from pipeline.pages.sheets import sheet

PAIRS = 16
_SIDE = 72


@dataclass(frozen=True)
class Nearest:
    """The rows of the generated features and of the training ones, and the distance between them; nearest first."""

    generated: np.ndarray
    training: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Images uint8 `(n, H, W, C)` and their nearest training images, with their distances, nearest first.

    `usual` is below what 99 % of the held-out images are from theirs.
    """

    generated: np.ndarray
    training: np.ndarray
    distances: np.ndarray
    usual: float

    @property
    def closer(self) -> int:
        """How many of these are closer than that."""
        return int((self.distances < self.usual).sum())


def nearest(generated: np.ndarray, training: np.ndarray, count: int = PAIRS) -> Nearest:
    """The `count` rows of features `(n, d)` that are nearest to a row of `(m, d)`: Euclidean."""
    distances, places = nearest_rows(generated, training)
    rows = np.argsort(distances, kind="stable")[:count]
    return Nearest(rows, places[rows], distances[rows])


def pair_sheet(pairs: Pairs) -> bytes:
    """Four pairs a row, the generated image to the left."""
    images = np.stack([pairs.generated, pairs.training], axis=1)
    return sheet(images.reshape(-1, *images.shape[2:]), min(8, 2 * len(images)), _SIDE)
