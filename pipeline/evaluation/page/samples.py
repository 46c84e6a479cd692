"""What a generator makes, as PNG: each a pure function of the generator."""

import numpy as np
import torch

from ganmodels.randomness import image_latents
from pipeline.evaluation.arc import arc
from pipeline.pages.sheets import sheet
from pipeline.registry.generator import Generator

SEED = 0
IMAGES = 64
STEPS = 8  # from one latent to another
TRUNCATIONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
ROWS = 6
MOST_CLASSES = 20
_EACH = 8  # images of a class
_SIDE = 72  # pixels of an image on a sheet


def samples(generator: Generator) -> bytes:
    """The first images, of all classes in turn; a column each where these are few."""
    classes = generator.spec.classes
    columns = classes if 4 <= classes <= 16 else 8
    return sheet(generator.sample(IMAGES - IMAGES % columns, SEED), columns, _SIDE)


def interpolations(generator: Generator) -> bytes:
    """Each row goes from one latent to another along the great arc, `STEPS` images in all, within one class."""
    starts, ends = image_latents(0, 2 * ROWS, generator.spec.z_dim, SEED).view(ROWS, 2, -1).unbind(1)
    shares = torch.linspace(0, 1, STEPS).repeat(ROWS)[:, None]
    latents = arc(starts.repeat_interleave(STEPS, 0), ends.repeat_interleave(STEPS, 0), shares)
    return sheet(generator.decode(latents.numpy(), _row_labels(generator, STEPS)), STEPS, _SIDE)


def truncations(generator: Generator) -> bytes:
    """The same latents, a row each, from the centre outwards: `TRUNCATIONS` in columns."""
    latents = image_latents(0, ROWS, generator.spec.z_dim, SEED).numpy()
    labels = _row_labels(generator, 1)
    columns = [generator.decode(latents, labels, truncation) for truncation in TRUNCATIONS]
    return sheet(np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:]), len(TRUNCATIONS), _SIDE)


def class_rows(generator: Generator) -> bytes | None:
    """A row of images for each of the first `MOST_CLASSES` classes; None for a generator without."""
    classes = min(generator.spec.classes, MOST_CLASSES)
    if not classes:
        return None
    labels = np.repeat(np.arange(classes), _EACH)
    return sheet(generator.sample(len(labels), SEED, labels), _EACH, _SIDE)


def _row_labels(generator: Generator, each: int) -> np.ndarray | None:
    """Class `k` for each image of row `k`, over and over."""
    classes = generator.spec.classes
    return np.repeat(np.arange(ROWS) % classes, each) if classes else None
