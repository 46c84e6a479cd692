"""How the bytes of a row become pixels: our own encodings as they were written, foreign images as an ingest would."""

import io
from collections.abc import Callable
from math import prod

import numpy as np

from pipeline.ingest.image import Decoded, ImageRules, InvalidImage, decode
from pipeline.shards.encoding import Put
from pipeline.shards.encoding import decode as decode_own
from pipeline.shards.encoding import decoder as put_own
from pipeline.shards.manifest import FOREIGN, Manifest

_NPY = b"\x93NUMPY"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def decoder(manifest: Manifest) -> Callable[[bytes], np.ndarray]:
    """Bytes -> uint8 `(resolution, resolution, channels)`; it raises ValueError, OSError or InvalidImage."""
    if manifest.encoding != FOREIGN:
        return lambda data: decode_own(data, manifest.encoding, manifest.channels)
    rules = rules_of(manifest)
    return lambda data: decode_foreign(data, rules).pixels


def put_into(manifest: Manifest, images: np.ndarray) -> Put:
    """Puts an image at a place of a batch, uint8 `(n, h, w, c)`; it raises ValueError or OSError."""
    if manifest.encoding != FOREIGN:
        return put_own(manifest.encoding, images)
    rules = rules_of(manifest)

    def put(place: int, data: memoryview) -> None:
        try:
            images[place] = decode_foreign(bytes(data), rules).pixels
        except InvalidImage as why:
            raise ValueError(str(why)) from None

    return put


def rules_of(manifest: Manifest) -> ImageRules:
    made = manifest.processing
    return ImageRules(
        manifest.resolution,
        manifest.channels,
        made["background"],
        min_side=made["min_side"],
        max_aspect=made["max_aspect"],
        fixes=tuple(made["fixed"]),
    )


def decode_foreign(data: bytes, rules: ImageRules) -> Decoded:
    """An image file or a uint8 `.npy` of `(h, w)` or `(h, w, c)`, told by its first bytes. Raises InvalidImage."""
    if not data.startswith(_NPY):
        return decode(data, rules)
    pixels = _pixels(data)
    height, width, channels = pixels.shape
    if pixels.shape == (rules.resolution, rules.resolution, rules.channels):
        return Decoded(pixels, width, height, "L" if channels == 1 else "RGB")
    # As the simplest of image files, it goes the way of all images.
    return decode(b"P%d %d %d 255\n" % (5 if channels == 1 else 6, width, height) + pixels.tobytes(), rules)


def _pixels(data: bytes) -> np.ndarray:
    """Without numpy's own reader, which makes room for whatever a header claims, and would unpickle."""
    stream = io.BytesIO(data)
    try:
        shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # hostile headers make its parser raise nearly anything
        raise InvalidImage("corrupt", f"npy: {(str(error).splitlines() or ['no header'])[0][:100]}") from None
    if dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)):
        raise InvalidImage("not_an_image", f"npy of {dtype} {shape}, not uint8 (h, w), (h, w, 1) or (h, w, 3)")
    if min(shape) < 1 or prod(shape) > len(data) - stream.tell():
        raise InvalidImage("truncated", f"npy of {shape}, more than the {len(data) - stream.tell()} bytes there are")
    values = np.frombuffer(data, np.uint8, prod(shape), stream.tell())
    pixels = values.reshape(shape, order="F" if by_columns else "C")
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
