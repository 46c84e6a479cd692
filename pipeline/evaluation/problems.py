"""What no distance tells: a generator of one image, and one that gives back what it was trained on."""

from typing import Literal

import numpy as np

from pipeline.evaluation.evaluate import Features
from pipeline.evaluation.generated import generated_images
from pipeline.evaluation.metrics import nearest_distances
from pipeline.registry.generator import BATCH, Generator

# A perfect generator has about one sample in a hundred below the held-out images' first percentile.
MEMORISED_SHARE = 0.02
_ENOUGH_HELD_OUT = 200


def find_problem(features: Features) -> Literal["constant", "memorised"] | None:
    """What disqualifies a generator, whatever its distance; None if nothing does."""
    for generated in features.generated:
        if spread(generated) < 1e-3 * spread(features.held_out):
            return "constant"
    # Of fewer held-out images the first percentile is little more than their minimum.
    if len(features.held_out) >= _ENOUGH_HELD_OUT and memorised_share(features) > MEMORISED_SHARE:
        return "memorised"
    return None


def find_own_problem(generator: Generator) -> Literal["constant"] | None:
    """What its images tell without any to compare them with. Raises BadGenerator for NaN and infinities."""
    images = np.concatenate(list(generated_images(generator, BATCH, seed=0, labels=None)))
    # One grey level is what rounding makes of the same image.
    return "constant" if np.ptp(images, axis=0).max() <= 1 else None


def spread(features: np.ndarray) -> float:
    """Root of the mean squared distance from the mean, of features `(n, d)`."""
    return float(np.sqrt(features.astype(np.float64).var(axis=0).sum()))


def memorised_share(features: Features) -> float:
    """The share, 0 to 1, of generated images nearer to a training image than 99 % of the held-out images are.

    Only those training images count that were sampled for the features: all of them in a small dataset, few in a
    large one, where copies of the others go unseen.
    """
    near = np.quantile(nearest_distances(features.held_out, features.training), 0.01)
    return float(np.mean([nearest_distances(one, features.training) < near for one in features.generated]))
