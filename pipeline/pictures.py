"""Pixels and pictures."""

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Floats `(n, c, h, w)` in [-1, 1] -> uint8 `(n, h, w, c)`, rounded to the nearest grey level."""
    levels = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def from_pixels(pixels: np.ndarray) -> torch.Tensor:
    """uint8 `(n, h, w, c)` -> floats `(n, c, h, w)` in [-1, 1], as the networks were trained on them."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def tile(pixels: np.ndarray, columns: int, text: Mapping[str, str] | None = None) -> bytes:
    """uint8 `(n, h, w, c)` -> PNG, row by row; places that are left over stay black. `text` as in `to_png`."""
    n, height, width, channels = pixels.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    sheet[:n] = pixels
    sheet = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return to_png(sheet.reshape(rows * height, columns * width, channels), text)


def to_png(pixels: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """uint8 `(h, w, c)` -> PNG, the same bytes each time.

    `text` goes with it, keyword by keyword: tEXt chunks, and iTXt (UTF-8) where Latin-1 does not have all letters.
    """
    written = PngInfo()
    for keyword, value in (text or {}).items():
        written.add_text(keyword, value)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.save(buffer, format="PNG", pnginfo=written)
    return buffer.getvalue()
