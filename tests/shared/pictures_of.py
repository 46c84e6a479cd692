"""What a service's answer shows."""

import io

import httpx
import numpy as np
from PIL import Image


def pixels(png: bytes) -> np.ndarray:
    """uint8 `(h, w, c)`."""
    found = np.asarray(Image.open(io.BytesIO(png)))
    return found if found.ndim == 3 else found[:, :, None]


def version_of(answer: httpx.Response) -> int:
    return int(answer.headers["X-Ganline-Version"])


def same(shown: np.ndarray, sampled: np.ndarray) -> bool:
    """To one grey level, which rounding may cost."""
    assert shown.shape == sampled.shape
    return int(np.abs(shown.astype(int) - sampled.astype(int)).max()) <= 1
