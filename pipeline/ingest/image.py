"""Bytes to pixels: decode, set upright, lay over the background, crop to a square, resize."""

import io
import struct
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.ingest.complete import check_complete
from pipeline.ingest.invalid import InvalidImage

# Goes into the dataset's manifest: raise the version when a change here changes pixels.
PROCESSING: dict[str, Any] = {
    "version": 1,
    "orientation": "exif",
    "frame": "first",
    "crop": "centre square",
    "filter": "lanczos",
}

# Pillow reads more, but through formats without a signature (any bytes may be a TGA) or with helpers that
# run programs (EPS starts Ghostscript): neither belongs near a stranger's files.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageRules:
    """What every image of the dataset is made into."""

    resolution: int  # pixels a side
    channels: int  # 1 grey, 3 RGB
    background: str  # "white" or "black": what lies under transparent pixels
    max_pixels: int = 100_000_000  # a source with more is refused before it is decoded


@dataclass(frozen=True)
class Decoded:
    pixels: np.ndarray  # uint8 (resolution, resolution, channels)
    width: int  # of the source, upright
    height: int
    mode: str  # Pillow's name for the source's pixels


def decode(data: bytes, rules: ImageRules) -> Decoded:
    """The first frame of an image file, made to fit `rules`; raises InvalidImage and nothing else.

    Reasons: empty, not_an_image, truncated, corrupt, too_many_pixels. 16-bit values v become round(v / 257);
    wider integers are taken as 16-bit and floats as 0..1, unless their largest value says 8-bit range.
    Colour profiles are not applied. An image that already has the size keeps its pixels as they are.
    """
    if not data:
        raise InvalidImage("empty", "the file has no bytes")
    check_complete(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode(data, rules)
        except InvalidImage:
            raise
        except Exception as error:  # hostile bytes make Pillow raise nearly anything
            raise _as_invalid(error) from None


def _decode(data: bytes, rules: ImageRules) -> Decoded:
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        mode = image.mode
        if image.width * image.height > rules.max_pixels:
            raise InvalidImage(
                "too_many_pixels", f"{image.width} x {image.height}, more than {rules.max_pixels} pixels"
            )
        image.load()
        transparent: Any = image.info.get("transparency")
        if image.format == "PNG" and mode == "L" and isinstance(transparent, int):
            # Pillow widens 2- and 4-bit grey to 8 bits, but not the transparent value; byte 24 is the depth.
            image.info["transparency"] = transparent * 255 // ((1 << data[24]) - 1)
        upright = _upright(_flatten(image, rules), image)
    side = min(upright.size)
    if side < 1:
        raise InvalidImage("corrupt", "it has no pixels")
    # Whole pixels, so that a crop alone never resamples.
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    square = upright.resize(
        (rules.resolution, rules.resolution),
        Image.Resampling.LANCZOS,
        box=(left, top, left + side, top + side),
    )
    pixels = np.array(square).reshape(rules.resolution, rules.resolution, rules.channels)
    return Decoded(pixels, upright.width, upright.height, mode)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG)
    except Exception:  # metadata that cannot be read does not spoil good pixels
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _flatten(image: Image.Image, rules: ImageRules) -> Image.Image:
    """Opaque, in mode L for one channel and RGB for three."""
    image = _eight_bit(image)
    if image.mode in ("LA", "RGBA"):
        opaque = image.mode.removesuffix("A")
        level = {"white": 255, "black": 0}[rules.background]
        canvas = Image.new(opaque, image.size, level if opaque == "L" else (level, level, level))
        canvas.paste(image.convert(opaque), mask=image.getchannel("A"))
        image = canvas
    return image.convert("L" if rules.channels == 1 else "RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """In mode L, LA, RGB or RGBA. Pillow's own conversion of wide pixels clips instead of scaling."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int32)
        transparent: Any = image.info.get("transparency")
        grey = Image.fromarray(_scaled(values, 65535))
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        return grey
    if image.mode == "I":
        values = np.asarray(image)
        return Image.fromarray(_scaled(values, 65535 if image.format == "PPM" else _top(values, 255, 65535)))
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise InvalidImage("corrupt", "pixels that are not finite numbers")
        return Image.fromarray(_scaled(values, _top(values, 1, 255)))
    grey_only = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image.convert("L" if grey_only else "RGB")
    return image.convert("LA" if grey_only else "RGBA")


def _top(values: np.ndarray, low: int, high: int) -> int:
    """The files do not say which value is white: `low` if none exceeds it."""
    return low if values.size and values.max() <= low else high


def _scaled(values: np.ndarray, top: int) -> np.ndarray:
    """0..top to uint8 0..255, rounded; what lies outside is clipped."""
    return np.floor(np.clip(values, 0, top) * np.float32(255 / top) + 0.5).astype(np.uint8)


def _as_invalid(error: Exception) -> InvalidImage:
    if isinstance(error, UnidentifiedImageError):  # its own text holds a memory address
        return InvalidImage("not_an_image", f"none of {', '.join(_formats())}")
    if isinstance(error, Image.DecompressionBombError):
        return InvalidImage("too_many_pixels", str(error))
    said = str(error) or type(error).__name__
    truncated = isinstance(error, EOFError | struct.error) or "truncated" in said.lower()
    return InvalidImage("truncated" if truncated else "corrupt", said)
