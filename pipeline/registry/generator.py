"""A released generator in memory."""

import json
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ganmodels.randomness import image_latents
from ganmodels.saving import load_encoder, load_generator, to_bytes
from ganmodels.spec import NetworkSpec
from pipeline.digest import canonical_json
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
        _check_truncation(truncation)
        rows = self._labels(n, labels, range(first, first + n))
        images = self._empty(n)
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
            images[done : done + count] = to_pixels(self._forward(z, batch_labels, truncation)[row : row + count])
            done += count
        return images

    @torch.inference_mode()
    def sample_rows(
        self,
        seeds: Sequence[int],
        indexes: Sequence[int],
        labels: int | Sequence[int] | np.ndarray | None = None,
        truncation: float = 1.0,
    ) -> np.ndarray:
        """One image a row, uint8 `(n, H, W, C)`: row `k` is image `indexes[k]` of seed `seeds[k]`.

        As `sample` makes it, to one grey level, but computed with no more rows than there are: for one image that
        is much quicker. `labels` and `truncation` are as `sample`'s, and so is what is raised.
        """
        seeds, indexes = [operator.index(seed) for seed in seeds], [operator.index(index) for index in indexes]
        if len(seeds) != len(indexes):
            raise ValueError(f"there are {len(seeds)} seeds and {len(indexes)} indexes")
        for index in indexes:
            if index < 0:
                raise ValueError(f"index {index} must not be negative")
        labels = self._labels(len(seeds), labels, indexes)
        rows = [image_latents(index, 1, self.spec.z_dim, seed) for seed, index in zip(seeds, indexes, strict=True)]
        latents = torch.cat(rows) if rows else torch.empty(0, self.spec.z_dim)
        return self.decode(latents.numpy(), labels, truncation)

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

    @torch.inference_mode()
    def decode(
        self,
        latents: np.ndarray,
        labels: int | Sequence[int] | np.ndarray | None = None,
        truncation: float = 1.0,
    ) -> np.ndarray:
        """Images uint8 `(n, H, W, C)` of latents float32 `(n, z_dim)`: the way back from `encode`.

        A row depends on its latent and label alone, up to rounding. `labels` and `truncation` are as `sample`'s, and so
        is what is raised.
        """
        _check_truncation(truncation)
        n = len(latents)
        rows = self._labels(n, labels, range(n))
        images = self._empty(n)
        for start in range(0, n, BATCH):
            part = slice(start, start + BATCH)
            z = torch.from_numpy(np.ascontiguousarray(latents[part], dtype=np.float32))
            batch_labels = None if rows is None else torch.from_numpy(rows[part])
            images[part] = to_pixels(self._forward(z, batch_labels, truncation))
        return images

    def weights_sha256(self) -> str:
        """Of the network's weights as safetensors."""
        return sha256(to_bytes(self.network.state_dict()))

    def _forward(self, z: torch.Tensor, labels: torch.Tensor | None, truncation: float) -> torch.Tensor:
        device = next((weight.device for weight in self.network.parameters()), torch.device("cpu"))
        return self.network(z.to(device), None if labels is None else labels.to(device), truncation)

    def _empty(self, n: int) -> np.ndarray:
        return np.empty((n, self.spec.resolution, self.spec.resolution, self.spec.channels), np.uint8)

    def _labels(
        self, n: int, labels: int | Sequence[int] | np.ndarray | None, indexes: Sequence[int]
    ) -> np.ndarray | None:
        """`(n,)` int64, or None for a network without classes."""
        classes = self.spec.classes
        if not classes:
            if labels is not None:
                raise ValueError(f"labels {labels!r}: this generator has no classes")
            return None
        if labels is None:
            return np.asarray([index % classes for index in indexes], dtype=np.int64)
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


def _check_truncation(truncation: float) -> None:
    if not (np.isfinite(truncation) and truncation >= 0):
        raise ValueError(f"truncation {truncation} is not a finite number of at least 0")


def generator_from_files(
    weights: bytes, document: bytes, encoder: bytes | None = None, found: "Found | None" = None
) -> Generator:
    """From a release's files: safetensors, JSON with `spec` and `classes`, and any encoder's safetensors."""
    values = json.loads(document)
    spec = NetworkSpec.from_dict(values["spec"])
    back = load_encoder(spec, encoder) if encoder is not None else None
    return Generator(load_generator(spec, weights), spec, tuple(values["classes"]), found, back)


def files_of(generator: Generator) -> tuple[bytes, bytes]:
    """Weights and document, as `generator_from_files` takes them; without its encoder."""
    document = canonical_json({"spec": generator.spec.to_dict(), "classes": list(generator.class_names)})
    return to_bytes(generator.network.state_dict()), document


@lru_cache(maxsize=1)
def opened(weights: bytes, document: bytes) -> Generator:
    """The same one for all tasks of a process that give the same bytes."""
    return generator_from_files(weights, document)
