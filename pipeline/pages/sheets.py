"""Many images on one picture."""

import numpy as np
from PIL import Image

from pipeline.pictures import tile


def sheet(images: np.ndarray, columns: int, side: int) -> bytes:
    """uint8 `(n, h, w, c)` -> PNG, row by row, each image `side` pixels wide and high with its white edge."""
    return tile(np.stack([_cell(image, side) for image in images]), columns)


def _cell(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 `(h, w, c)` -> `(side, side, 3)`; small pixels stay sharp."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    inner = side - 2
    small = max(picture.size) < inner
    picture = picture.resize((inner, inner), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    return np.pad(np.asarray(picture), ((1, 1), (1, 1), (0, 0)), constant_values=255)
