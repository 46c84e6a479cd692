"""An image as the bytes of one tar member, and back. Every encoding but jpeg is lossless."""

import io
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

JPEG_QUALITY = 95

# Puts at a place of the batch the image in a member's bytes. ValueError or OSError for bytes of another kind.
Put = Callable[[int, memoryview], None]


def encode(pixels: np.ndarray, encoding: str, quality: int = JPEG_QUALITY) -> bytes:
    """uint8 `(h, w, c)` -> bytes. Equal pixels give equal bytes. `quality`, 1 to 100, is of jpeg alone."""
    if encoding == "raw":
        return _raw_header(pixels.shape) + pixels.tobytes()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    options: dict[str, Any] = {}
    if encoding == "webp":
        options = {"lossless": True, "exact": True}
    elif encoding == "jpeg":
        options = {"quality": quality, "subsampling": "4:4:4"}
    buffer = io.BytesIO()
    image.save(buffer, format=encoding, **options)
    return buffer.getvalue()


def decode(data: bytes | memoryview, encoding: str, channels: int) -> np.ndarray:
    """Bytes -> uint8 `(h, w, channels)`. Raises ValueError or OSError for bytes of another kind."""
    if encoding == "raw":
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if encoding == "jpeg":
        return simplejpeg.decode_jpeg(data, colorspace=_colours(channels))
    with Image.open(io.BytesIO(data), formats=[encoding.upper()]) as image:
        return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)


def decoder(encoding: str, images: np.ndarray) -> Put:
    """`decode` into a batch, uint8 `(n, h, w, c)`, and without a copy between where that can be."""
    shape, channels = images.shape[1:], images.shape[3]

    def put(place: int, data: memoryview) -> None:
        pixels = decode(data, encoding, channels)
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise ValueError(f"it holds {pixels.dtype} {pixels.shape}, not uint8 {shape}")
        images[place] = pixels

    if encoding == "raw":
        # All images of a dataset have the same header, and to compare it is ten times faster than to parse it.
        header, batch, size = _raw_header(shape), images.reshape(-1).data, math.prod(shape)
        begin = len(header)
        whole = begin + size

        def put_raw(place: int, data: memoryview) -> None:
            if len(data) == whole and data[:begin].tobytes() == header:
                batch[place * size : (place + 1) * size] = data[begin:]
            else:
                put(place, data)

        return put_raw
    if encoding == "jpeg":
        colours = _colours(channels)

        def put_jpeg(place: int, data: memoryview) -> None:
            # Three times as fast as Pillow, and the same pixels.
            pixels = simplejpeg.decode_jpeg(data, colorspace=colours, buffer=images[place])
            if pixels.shape != shape:
                raise ValueError(f"it holds {pixels.shape}, not {shape}")

        return put_jpeg
    return put


@cache
def _raw_header(shape: tuple[int, ...]) -> bytes:
    """Of every `.npy` file of this shape: numpy takes longer to write it than to copy the pixels."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.zeros(shape, dtype=np.uint8), version=(1, 0))
    return buffer.getvalue()[: -math.prod(shape)]


def _colours(channels: int) -> str:
    return "GRAY" if channels == 1 else "RGB"


def suffix(encoding: str) -> str:
    """The member's extension, one that WebDataset's decoders know."""
    return "npy" if encoding == "raw" else encoding
