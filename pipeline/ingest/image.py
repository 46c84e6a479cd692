"""Bytes to pixels: decode, set upright, lay over the background, crop to a square, resize."""

import io
import os
import struct
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from pipeline.config import Data
from pipeline.ingest.complete import Counted, check_complete, format_of
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.limits import check_work, tame
from pipeline.ingest.npy import decode_npy
from pipeline.ingest.partial import load_what_is_there
from pipeline.ingest.plain_png import decode_plain_png
from pipeline.ingest.problems import FIXED_BY_DEFAULT, fixes

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
_OWN = ("NPY",)
_VARIANTS = {"MPO": "JPEG", "DIB": "BMP"}

_ORIENTATION_TAG = 0x0112
_ORIENTATION_SAID_BY = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_AT_ONCE = 1 << 20  # wide pixels that are scaled together: each takes 30 bytes


@dataclass(frozen=True)
class ImageRules:
    """What every image of the dataset is made into, and from which files."""

    resolution: int  # pixels a side
    channels: int  # 1 grey, 3 RGB
    background: str  # what lies under transparent pixels: "white", "black" or "#rrggbb"
    max_pixels: int = 100_000_000  # a source with more is refused before it is decoded
    min_side: int = 1  # pixels; below: too_small
    max_aspect: float = 8.0  # longer side by shorter; above: extreme_aspect
    fixes: tuple[str, ...] = FIXED_BY_DEFAULT  # the problems that do not refuse a file


@dataclass(frozen=True)
class Decoded:
    pixels: np.ndarray  # uint8 (resolution, resolution, channels), read-only
    width: int  # of the source, upright
    height: int
    mode: str  # Pillow's name for the source's pixels
    fixed: tuple[str, ...] = ()  # its problems


def rules_of(data: Data) -> ImageRules:
    assert data.resolution is not None and data.channels is not None and data.min_side is not None
    return ImageRules(
        data.resolution,
        data.channels,
        data.background,
        min_side=data.min_side,
        max_aspect=data.max_aspect,
        fixes=fixes(data.problems),
    )


def decode(data: bytes, rules: ImageRules, path: str = "") -> Decoded:
    """The first frame of an image file, made to fit `rules`; raises InvalidImage and nothing else.

    Its reasons are the keys of `pipeline.ingest.problems.PROBLEMS`; `path` is asked for its extension alone.
    16-bit values v become round(v / 257); wider integers are taken as 16-bit and floats as 0..1, unless their
    largest value says 8-bit range. Colour profiles are not applied. An image that already has the size keeps its
    pixels as they are.

    Memory is bounded by some 30 bytes for each of `max_pixels`, time by some microseconds.
    """
    if not data:
        raise InvalidImage("empty", "the file has no bytes")
    kind = format_of(data)
    if kind not in _formats():
        raise InvalidImage("not_an_image", unknown_format())
    fixed = []

    def meet(problem: str, detail: str) -> None:
        if problem not in rules.fixes:
            raise InvalidImage(problem, detail)
        fixed.append(problem)

    if path and _format_of_name(path) not in (None, kind):
        meet("wrong_extension", f"{os.path.splitext(path)[1]}, but it is {kind}")
    counted, lost = Counted(), None
    try:
        counted = check_complete(data)
    except InvalidImage as error:
        if error.reason != "truncated":
            raise
        meet(error.reason, error.detail)
        lost = error

    def meet_size(width: int, height: int) -> None:
        short, long = sorted((width, height))
        if short < rules.min_side:
            meet("too_small", f"{width} x {height}, a side below data.min_side {rules.min_side}")
        if long > short * rules.max_aspect:
            meet("extreme_aspect", f"{width} x {height}, above data.max_aspect {rules.max_aspect:g}")

    if kind == "NPY":
        plain: np.ndarray | None = decode_npy(data, rules.max_pixels)
    else:
        plain = decode_plain_png(data, rules.max_pixels) if counted.plain else None
    if plain is not None:
        height, width, channels = plain.shape
        meet_size(width, height)
        return Decoded(_fitted(plain, rules), width, height, "L" if channels == 1 else "RGB", tuple(fixed))
    try:
        with Image.open(io.BytesIO(tame(data, kind, rules.max_pixels)), formats=(kind,)) as image:
            check_work(image, counted.scans, rules.max_pixels)
            if lost and image.info.get("progressive"):  # nothing can be shown before all scans are decoded
                raise lost
            if _is_animated(image, counted.frames):
                meet("animated", f"{kind} of more than one frame")
            meet_size(image.width, image.height)
            mode = image.mode
            if "truncated" not in rules.fixes:
                image.load()
            elif load_what_is_there(image, _rgb(rules.background)) and not lost:
                fixed.append("truncated")
            upright = _upright(_flatten(image, data, rules), image)
        pixels = _square(upright, rules)
    except InvalidImage:
        raise
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        raise lost or _as_invalid(error) from None
    return Decoded(pixels, upright.width, upright.height, mode, tuple(fixed))


def _is_animated(image: Image.Image, frames: int) -> bool:
    if image.format == "GIF":  # Pillow would go looking for the next one, beyond the end too
        return frames > 1
    # MPO: a camera's JPEG with a second view or a preview.
    return image.format != "MPO" and getattr(image, "is_animated", False)


def _fitted(pixels: np.ndarray, rules: ImageRules) -> np.ndarray:
    """Of uint8 (h, w, 1 or 3), opaque and upright."""
    if pixels.shape == (rules.resolution, rules.resolution, rules.channels):
        pixels.flags.writeable = False
        return pixels
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    return _square(image.convert("L" if rules.channels == 1 else "RGB"), rules)


def _square(image: Image.Image, rules: ImageRules) -> np.ndarray:
    """The centre, resized; whole pixels, so that a crop alone never resamples."""
    size, side = (rules.resolution, rules.resolution), min(image.size)
    if image.size != size:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        image = image.resize(size, Image.Resampling.LANCZOS, box=box)
    return np.asarray(image).reshape(*size, rules.channels)


def unknown_format() -> str:
    """The detail of `not_an_image` for bytes of no format that is known here and now."""
    return f"none of {', '.join(_formats())}"


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    # Once for all: to catch them around each call is not safe among threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", "Reading `.npy`")  # with a header of Python 2
    return (*(name for name in _FORMATS if name in Image.OPEN), *_OWN)


@cache
def _extensions() -> dict[str, str]:
    known = {extension: _VARIANTS.get(name, name) for extension, name in Image.registered_extensions().items()}
    return {**known, ".npy": "NPY"}


def _format_of_name(path: str) -> str | None:
    return _extensions().get(os.path.splitext(path)[1].lower())


@cache
def _rgb(background: str) -> tuple[int, int, int]:
    return ImageColor.getrgb(background)[:3]


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    if source.info.keys().isdisjoint(_ORIENTATION_SAID_BY):  # TIFF's own tag is obeyed by Pillow
        return image
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG)
    except Exception:  # metadata that cannot be read does not spoil good pixels
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _flatten(image: Image.Image, data: bytes, rules: ImageRules) -> Image.Image:
    """Opaque, in mode L for one channel and RGB for three."""
    mode = "L" if rules.channels == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    transparent: Any = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(transparent, int):
        # Pillow widens 2- and 4-bit grey to 8 bits, but not the transparent value; byte 24 is the depth.
        image.info["transparency"] = transparent * 255 // ((1 << data[24]) - 1)
    image = _eight_bit(image)
    if image.mode in ("LA", "RGBA"):
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        canvas = Image.new("RGB", image.size, _rgb(rules.background))
        canvas.paste(image, mask=image)
        image = canvas
    return image if image.mode == mode else image.convert(mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    """In mode L, LA, RGB or RGBA. Pillow's own conversion of wide pixels clips instead of scaling."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        transparent: Any = image.info.get("transparency")
        grey = Image.fromarray(_scaled(values, 65535))
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray((values != transparent).astype(np.uint8) * np.uint8(255)))
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
    mode = ("L" if grey_only else "RGB") + ("A" if image.has_transparency_data else "")
    return image if image.mode == mode else image.convert(mode)


def _top(values: np.ndarray, low: int, high: int) -> int:
    """The files do not say which value is white: `low` if none exceeds it."""
    return low if values.size and values.max() <= low else high


def _scaled(values: np.ndarray, top: int) -> np.ndarray:
    """(h, w) of 0..top to uint8 0..255, rounded; what lies outside is clipped."""
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, _AT_ONCE // values.shape[1])
    for start in range(0, len(values), rows):
        some = values[start : start + rows]
        some = some.astype(np.int32) if some.dtype.kind in "iu" else some
        scaled[start : start + rows] = np.floor(np.clip(some, 0, top) * np.float32(255 / top) + 0.5)
    return scaled


def _as_invalid(error: Exception) -> InvalidImage:
    if isinstance(error, UnidentifiedImageError):  # its own text holds a memory address
        return InvalidImage("not_an_image", unknown_format())
    if isinstance(error, Image.DecompressionBombError):
        return InvalidImage("too_many_pixels", str(error))
    said = str(error) or type(error).__name__
    truncated = isinstance(error, EOFError | struct.error) or "truncated" in said.lower()
    return InvalidImage("truncated" if truncated else "corrupt", said)
