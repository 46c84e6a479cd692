"""Pixels as a file without a compressor, whose version the bytes, and so the content's key, would depend on."""

import numpy as np


def netpbm(pixels: np.ndarray) -> bytes:
    """PGM of uint8 `(height, width)`, PPM of uint8 `(height, width, 3)`."""
    kind = 5 if pixels.ndim == 2 else 6
    return b"P%d\n%d %d\n255\n" % (kind, pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def netpbm_size(height: int, width: int, channels: int) -> int:
    """Bytes of such a file."""
    return len(b"P5\n%d %d\n255\n" % (width, height)) + height * width * channels
