"""A released generator in memory."""

import json
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ganmodels.randomness import image_latents
from ganmodels.saving import load_encoder, load_generator, to_bytes
from ganmodels.spec import NetworkSpec
from pipeline.errors import UserError
from pipeline.pictures import from_pixels, to_pixels
from pipeline.storage import sha256

if TYPE_CHECKING:
    from pipeline.registry.lookup import Found

BATCH = 64


class Generator:
    """Makes images with `network`. `spec` is its network's, `class_names` its labels' names in order (empty: it has no
    classes), `found` the release that it came from. With an `encoder` it also finds the latents of images.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: NetworkSpec,
        class_names: tuple[str, ...] = (),
        found: "Found | None" = None,
        encoder: nn.Module | None = None,
    ):
        self.spec, self.class_names, self.found = spec, class_names, found
        self.network = network.eval().float()
        self.encoder = encoder.eval().float() if encoder is not None else None

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        seed: int = 0,
        labels: int | Sequence[int] | np.ndarray | None = None,
        truncation: float = 1.0,
        first: int = 0,
    ) -> np.ndarray:
        """Images `first .. first + n - 1` of this seed, uint8 `(n, H, W, C)`; grey ones have C = 1.

        Image `i` depends on `(seed, i)` and its label alone, bit for bit. `labels` is one class number a
        row, or one for all; by default image `i` is of class `i % classes`. `truncation` shrinks latents,
        or StyleGAN2's styles towards their centre. Raises ValueError for a count, label or truncation that
        cannot be.
        """
        # A numpy integer would be another key than the same Python one.
        n, seed, first = operator.index(n), operator.index(seed), operator.index(first)
        if n < 0 or first < 0:
            raise ValueError(f"n {n} and first {first} must not be negative")
        if not (np.isfinite(truncation) and truncation >= 0):
            raise ValueError(f"truncation {truncation} is not a finite number of at least 0")
        rows = self._labels(n, labels, first)
        images = np.empty((n, self.spec.resolution, self.spec.resolution, self.spec.channels), np.uint8)
        done = 0
        while done < n:
            # Image i is always row i % BATCH of a full batch: kernels may differ with the batch's size and
            # with the row, and then so would the last bits.
            row = (first + done) % BATCH
            count = min(BATCH - row, n - done)
            z = torch.zeros(BATCH, self.spec.z_dim)
            z[row : row + count] = image_latents(first + done, count, self.spec.z_dim, seed)
            batch_labels = None
            if rows is not None:
                batch_labels = torch.zeros(BATCH, dtype=torch.long)
                batch_labels[row : row + count] = torch.from_numpy(rows[done : done + count])
            images[done : done + count] = to_pixels(self.network(z, batch_labels, truncation)[row : row + count])
            done += count
        return images

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents `(n, z_dim)`, float32, from which `network` makes images like these: uint8 `(n, H, W, C)`.

        A row depends on its image alone, up to rounding. Raises UserError where there is no encoder, ValueError for
        images of another shape or type.
        """
        if self.encoder is None:
            name = f"{self.found.model} version {self.found.version}" if self.found else "this generator"
            raise UserError(f"{name} has no encoder; train one with model.family resnet and model.bigan true")
        shape = (self.spec.resolution, self.spec.resolution, self.spec.channels)
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 (n, {', '.join(map(str, shape))})")
        latents = np.empty((len(images), self.spec.z_dim), np.float32)
        for start in range(0, len(images), BATCH):
            rows = slice(start, start + BATCH)
            latents[rows] = self.encoder(from_pixels(images[rows])).numpy()
        return latents

    def weights_sha256(self) -> str:
        """Of the network's weights as safetensors."""
        return sha256(to_bytes(self.network.state_dict()))

    def _labels(self, n: int, labels: int | Sequence[int] | np.ndarray | None, first: int) -> np.ndarray | None:
        """`(n,)` int64, or None for a network without classes."""
        classes = self.spec.classes
        if not classes:
            if labels is not None:
                raise ValueError(f"labels {labels!r}: this generator has no classes")
            return None
        if labels is None:
            return np.arange(first, first + n, dtype=np.int64) % classes
        rows = np.asarray(labels)
        if rows.ndim == 0:
            rows = np.broadcast_to(rows, (n,))
        if rows.shape != (n,):
            raise ValueError(f"labels have shape {rows.shape}, not ({n},)")
        if n and rows.dtype.kind not in "iu":
            raise ValueError(f"label {rows[0]!r} is not an integer")
        for label in rows[(rows < 0) | (rows >= classes)][:1]:
            raise ValueError(f"label {label} is not one of 0 to {classes - 1}")
        return rows.astype(np.int64)


def generator_from_files(
    weights: bytes, document: bytes, encoder: bytes | None = None, found: "Found | None" = None
) -> Generator:
    """From a release's files: safetensors, JSON with `spec` and `classes`, and any encoder's safetensors."""
    values = json.loads(document)
    spec = NetworkSpec.from_dict(values["spec"])
    back = load_encoder(spec, encoder) if encoder is not None else None
    return Generator(load_generator(spec, weights), spec, tuple(values["classes"]), found, back)
