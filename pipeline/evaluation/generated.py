"""The other side: features of a generator's images, once it is sure that they are images."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch

from pipeline.evaluation.features import FeatureExtractor
from pipeline.registry.generator import BATCH, Generator

_CHUNK = 16 * BATCH  # images in memory at a time

Reason = Literal["not_finite"]


class BadGenerator(Exception):
    """A generator that no figure can be given for. Says what is wrong in one line; `reason` is for programs."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # from a Ray task to who waits for it
        return BadGenerator, (self.reason, str(self))


def generated_features(
    generator: Generator,
    images: int,
    seed: int,
    labels: np.ndarray | None,
    extractor: FeatureExtractor,
    on_batch: Callable[[int], None],
    start: int = 0,
) -> np.ndarray:
    """Float32 `(images, d)` of images `start .. start + images - 1` of this seed, with `labels` `(images,)`.

    Raises BadGenerator for NaN and infinities.
    """
    made = generated_images(generator, images, seed, labels, start)
    return np.concatenate([extractor(chunk, on_batch) for chunk in made])


def generated_images(
    generator: Generator, images: int, seed: int, labels: np.ndarray | None, start: int = 0
) -> Iterator[np.ndarray]:
    """Uint8 `(n, H, W, C)` of images `start .. start + images - 1`, some at a time; raises BadGenerator likewise."""
    network = generator.network
    _check_weights(network)
    # Clipped to grey levels, a NaN looks like any other pixel: it has to be seen before.
    hook = network.register_forward_hook(_check_output)
    try:
        for first in range(0, images, _CHUNK):
            count = min(_CHUNK, images - first)
            their_labels = None if labels is None else labels[first : first + count]
            yield generator.sample(count, seed, their_labels, first=start + first)
    finally:
        hook.remove()


def _check_weights(network: torch.nn.Module) -> None:
    """Raises BadGenerator that names the first tensor that holds a NaN or an infinity."""
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise BadGenerator("not_finite", f"the generator's weights are not finite: {name} holds NaN or infinity")


def _check_output(network: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
    if not torch.isfinite(output).all():
        raise BadGenerator("not_finite", "the generator's images are not finite: a pixel is NaN or infinity")


def labels_like(
    held_out: np.ndarray, dataset_classes: list[str], generator: Generator, images: int
) -> np.ndarray | None:
    """Labels `(images,)` in the proportions of the held-out images: theirs, over and over.

    Classes are matched by name, for an older generator may number fewer; those that it does not know are left
    out. None where it has no classes, or where no held-out image has one of them: it then makes all in turn.
    """
    if not generator.spec.classes:
        return None
    numbers = {name: number for number, name in enumerate(generator.class_names)}
    known = [numbers[dataset_classes[label]] for label in held_out if label >= 0 and dataset_classes[label] in numbers]
    return np.resize(np.array(known, dtype=np.int64), images) if known else None
