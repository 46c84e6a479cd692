"""How much the images of a generator differ from each other: what falls to nothing where it collapses."""

import numpy as np

from pipeline.shards.manifest import DatasetRef
from pipeline.shards.read import DatasetReader
from pipeline.shards.view import View
from pipeline.storage import Storage

_MOST = 512  # real images that are looked at, and eight a class

Variances = dict[int, float]


def variances(images: np.ndarray, labels: np.ndarray | None = None) -> Variances:
    """The mean over pixels of the variance over images, uint8 `(n, H, W, C)`: of each class that has two or more.

    `labels` are `(n,)`; without them all are of class 0. In squared grey levels, unbiased.
    """
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    found = {}
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count > 1:
            found[int(label)] = _variance(images[labels == label])
    return found


def _variance(images: np.ndarray) -> float:
    n = len(images)
    # In whole numbers, an image at a time: exact, and no larger copy of all images.
    total = images.sum(0, dtype=np.int64)
    squares = sum(np.square(image, dtype=np.int64) for image in images)
    return float(np.mean((squares - total * total / n) / (n - 1)))


def diversity(generated: Variances, real: Variances) -> float | None:
    """The deviation of a pixel from image to image, in ratio to that of real images: 0 where all are the same, about 1
    where they differ as much. None where they share no class that tells.

    Within classes, so that one image a class is 0 too, and over all that both have: those count most that are varied.
    """
    shared = generated.keys() & real.keys()
    of_real = sum(real[label] for label in shared)
    return float(np.sqrt(sum(generated[label] for label in shared) / of_real)) if of_real > 0 else None


def real_variances(storage: Storage, dataset: DatasetRef, classes: int, view: View | None = None) -> Variances:
    """Of some training images, as `view` shows them; by class where the generator has any `classes`.

    They are spread over the first shards, which hold images in no order. Raises DamagedShard and OSError.
    """
    reader = DatasetReader(storage, dataset, "train", view=view)
    ends = np.cumsum(reader.counts)
    wanted = max(_MOST, 8 * classes)
    there = int(ends[min(int(np.searchsorted(ends, wanted)), len(ends) - 1)])  # in as few shards as have so many
    # Not the first of them: a view can have each shard's images by class.
    places = np.arange(min(wanted, there)) * there // min(wanted, there)
    shards = np.searchsorted(ends, places, side="right")
    images, labels = reader.read(shards, places - (ends - reader.counts)[shards])
    return variances(images[labels >= 0], labels[labels >= 0]) if classes else variances(images)
