"""Features by a classifier of the dataset's own classes, for images of which ImageNet knows nothing.

It is trained once for each dataset version and choice of classes, and kept:

<storage>/evaluations/classifiers/<digest>.safetensors    its weights
<storage>/evaluations/classifiers/<digest>.json           of what, their sha256, and how well it reads held-out images
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load

from ganmodels.saving import to_bytes
from pipeline.config import OWN_CLASSIFIER
from pipeline.digest import digest
from pipeline.errors import UserError
from pipeline.evaluation.classifier import Classifier
from pipeline.evaluation.features import BATCH, BatchedExtractor, as_levels, resized
from pipeline.evaluation.kept import keep, kept
from pipeline.evaluation.learning import as_input, learn_classes
from pipeline.evaluation.real import MOST, Wanted, images_there, rows_of
from pipeline.progress import note
from pipeline.shards.manifest import DatasetRef, Split, load_manifest
from pipeline.shards.view import chosen_classes
from pipeline.storage import Storage, sha256

FOLDER = "evaluations/classifiers"
PIXELS = 64  # a side that it sees at most
_LEARNED = 20_000  # training images at most: all of them are held in memory
_VERSION = 1  # raise it when a change of the code changes the weights


class OwnClassifier(BatchedExtractor):
    """The last layer of a classifier before its classes, averaged over the image: 128 features.

    `weights` are the classifier's as safetensors, `pixels` a side what it sees; larger and smaller images are resized.
    """

    def __init__(self, weights: bytes, pixels: int, threads: int | None = None):
        self.weights, self.pixels, self.threads = weights, pixels, threads
        self.sha256 = sha256(weights)
        self._network: Classifier | None = None

    @property
    def name(self) -> str:
        return f"{OWN_CLASSIFIER}-{self.sha256[:12]}@{self.pixels}px"

    def load(self) -> None:
        if self._network is None:
            tensors = load(self.weights)
            with torch.device("meta"):  # no weights are drawn: whoever calls may be drawing too
                network = Classifier(len(tensors["head.bias"]))
            network.load_state_dict(tensors, assign=True)
            self._network = network.eval().requires_grad_(False)

    def compute(self, levels: torch.Tensor) -> torch.Tensor:
        assert self._network is not None
        return self._network.features(as_input(_seen(levels, self.pixels)))

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Of the dataset's classes."""
        self.load()
        assert self._network is not None
        with torch.inference_mode():
            return self._network.head(torch.from_numpy(features)).softmax(dim=1).numpy()


def own_classifier(storage: Storage, dataset: DatasetRef, only: Sequence[str] = ()) -> OwnClassifier:
    """That of the training images of these classes, none: all; trained now where nothing whole is kept of it.

    Raises UserError where there are not images of two classes at least.
    """
    manifest = load_manifest(storage, dataset)
    shown = chosen_classes(manifest, only)
    pixels = min(manifest.resolution, PIXELS)
    told: dict[str, Any] = {"version": _VERSION, "dataset": dataset.digest, "classes": shown, "pixels": pixels}
    path = f"{FOLDER}/{digest(told)}"
    weights = kept(storage, path, told, "the classifier is trained again")
    if weights is None:
        images, labels = _labelled(storage, dataset, "train", _LEARNED, shown, pixels)
        if len(np.unique(labels)) < 2:
            raise UserError(
                f"evaluation.features {OWN_CLASSIFIER} learns to tell classes apart, and the {len(images):,} training"
                f" images of {dataset.name} that have a label are not of two; leave evaluation.features out"
            )
        weights = to_bytes(learn_classes(images, labels, len(shown)).state_dict())
        found = OwnClassifier(weights, pixels)
        accuracy = _accuracy(found, *_labelled(storage, dataset, "held_out", MOST, shown, pixels))
        if accuracy is not None:
            note(
                f"{found.name} learned from {len(images):,} images and reads {accuracy:.1%} of the held-out ones right"
            )
        keep(storage, path, {**told, "images": len(images), "held_out_accuracy": accuracy}, weights)
    return OwnClassifier(weights, pixels)


def _labelled(
    storage: Storage, dataset: DatasetRef, split: Split, most: int, shown: list[str], pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Up to `most` images of a split, uint8 `(n, pixels, pixels, C)`, and their labels, places in `shown`."""
    manifest = load_manifest(storage, dataset)
    count = min(most, images_there(storage, dataset, manifest, shown, split))
    images = [np.empty((0, pixels, pixels, manifest.channels), np.uint8)]
    labels = [np.empty(0, np.int64)]
    wanted = Wanted(dataset, split, count, OWN_CLASSIFIER, tuple(shown) if shown != manifest.classes else ())
    for some, theirs in rows_of(storage, wanted, range(count)):
        images += [_small(some[i : i + BATCH], pixels) for i in range(0, len(some), BATCH)]
        labels.append(theirs)
    known = (every := np.concatenate(labels)) >= 0
    return np.concatenate(images)[known], every[known]


def _small(images: np.ndarray, pixels: int) -> np.ndarray:
    """In grey levels again, which is enough to learn from: as floats they would take four times the memory."""
    return _seen(as_levels(images), pixels).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _seen(levels: torch.Tensor, pixels: int) -> torch.Tensor:
    return levels if levels.shape[-1] == pixels else resized(levels, pixels)


def _accuracy(extractor: OwnClassifier, images: np.ndarray, labels: np.ndarray) -> float | None:
    if not len(images):
        return None
    return float(np.mean(extractor.probabilities(extractor(images)).argmax(axis=1) == labels))
