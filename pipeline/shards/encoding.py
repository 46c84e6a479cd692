"""An image as the bytes of one tar member, and back. Every encoding is lossless."""

import io

import numpy as np
from PIL import Image


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """uint8 `(h, w, c)` -> bytes. Equal pixels give equal bytes."""
    buffer = io.BytesIO()
    if encoding == "raw":
        np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0))
    else:
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        options = {"lossless": True, "exact": True} if encoding == "webp" else {}
        image.save(buffer, format=encoding, **options)
    return buffer.getvalue()


def decode(data: bytes, encoding: str, channels: int) -> np.ndarray:
    """Bytes -> uint8 `(h, w, channels)`. Raises ValueError or OSError for bytes of another kind."""
    if encoding == "raw":
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    with Image.open(io.BytesIO(data), formats=[encoding.upper()]) as image:
        return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)


def suffix(encoding: str) -> str:
    """The member's extension, one that WebDataset's decoders know."""
    return "npy" if encoding == "raw" else encoding
