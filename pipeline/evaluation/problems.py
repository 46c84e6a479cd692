"""What no distance tells: a generator of one image, and one that gives back what it was trained on."""

from typing import Literal

import numpy as np

from pipeline.evaluation.evaluate import Features
from pipeline.evaluation.generated import BadGenerator, generated_images
from pipeline.evaluation.metrics import nearest_distances
from pipeline.registry.gate import ENOUGH_HELD_OUT
from pipeline.registry.generator import BATCH, Generator

# A perfect generator has about one sample in a hundred below the held-out images' first percentile.
MEMORISED_SHARE = 0.02


def find_problem(features: Features, memorised: float | None) -> Literal["constant", "memorised"] | None:
    """What disqualifies a generator, whatever its distance; None if nothing does.

    `memorised` is its `memorised_share`.
    """
    for generated in features.generated:
        if spread(generated) < 1e-3 * spread(features.held_out):
            return "constant"
    return "memorised" if memorised is not None and memorised > MEMORISED_SHARE else None


def find_own_problem(generator: Generator) -> Literal["constant"] | None:
    """What its images tell without any to compare them with. Raises BadGenerator for NaN and infinities."""
    images = np.concatenate(list(generated_images(generator, BATCH, seed=0, labels=None)))
    return "constant" if _is_one_image(images) else None


def find_loaded_problem(loaded: Generator, candidate: Generator) -> str | None:
    """What is wrong with a few images of a release that was loaded again, in words; None if nothing is.

    They are to be finite, as large as the spec says, not one image, and those of `candidate` to one grey level.
    """
    try:
        images = np.concatenate(list(generated_images(loaded, BATCH, seed=0, labels=None)))
    except BadGenerator as bad:
        return str(bad)
    expected = (BATCH, candidate.spec.resolution, candidate.spec.resolution, candidate.spec.channels)
    if images.shape != expected:
        return f"its images are {images.shape}, not {expected}"
    if _is_one_image(images):
        return "its images are one image, whatever the latent"
    apart = np.abs(images.astype(np.int16) - candidate.sample(BATCH, seed=0)).max()
    return f"its images are not the candidate's: {apart} grey levels apart" if apart > 1 else None


def _is_one_image(images: np.ndarray) -> bool:
    # One grey level is what rounding makes of the same image.
    return bool(np.ptp(images, axis=0).max() <= 1)


def spread(features: np.ndarray) -> float:
    """Root of the mean squared distance from the mean, of features `(n, d)`."""
    return float(np.sqrt(features.astype(np.float64).var(axis=0).sum()))


def memorised_share(features: Features) -> float | None:
    """The share, 0 to 1, of generated images nearer to a training image than 99 % of the held-out images are.

    None with fewer than `ENOUGH_HELD_OUT` held-out images: their first percentile is little more than their minimum.

    Only those training images count that were sampled for the features: all of them in a small dataset, few in a
    large one, where copies of the others go unseen.
    """
    if len(features.held_out) < ENOUGH_HELD_OUT:
        return None
    near = np.quantile(nearest_distances(features.held_out, features.training), 0.01)
    return float(np.mean([nearest_distances(one, features.training) < near for one in features.generated]))
