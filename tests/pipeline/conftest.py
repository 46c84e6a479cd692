"""Real image files whose pixels are known, and an ingest that needs no Ray."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Data
from pipeline.shards import on_ray
from pipeline.storage import Storage

SIZE = 16


def noise(seed: int, channels: int = 3) -> np.ndarray:
    """Pixels that an ingest at SIZE keeps as they are."""
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, channels), dtype=np.uint8)


def save_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def make_tree() -> Callable[..., str]:
    """Writes `<class>/<number>.png` for each number; the number alone decides on the pixels."""

    def make(root: Path, classes: dict[str, range | list[int]], channels: int = 3) -> str:
        for label, numbers in classes.items():
            for number in numbers:
                save_png(root / label / f"{number:04}.png", noise(number, channels))
        return str(root)

    return make


@pytest.fixture
def data() -> Callable[..., Data]:
    def make(source: str, **keys) -> Data:
        return Data.model_validate(
            {"source": source, "resolution": SIZE, "channels": 3, "held_out": 0.25, "shard_images": 20, **keys}
        )

    return make


@pytest.fixture
def pixels() -> Callable[..., np.ndarray]:
    """Of the image with this number."""
    return noise


@pytest.fixture
def without_ray(monkeypatch) -> None:
    """The shard stage in this process, where not Ray is tested but what the stage makes."""
    monkeypatch.setattr(on_ray, "cluster", nullcontext)
    monkeypatch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))
