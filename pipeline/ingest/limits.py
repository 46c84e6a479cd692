"""What a file makes its decoder allocate and repeat, read from its structure before a decoder sees it.

Pillow checks the size that a header states, after it has opened the file. That is too late, or not enough, for
formats whose decoders allocate on opening, by another size than the stated one, or by the number of parts.
"""

import re
import struct
from collections.abc import Callable, Iterator

from PIL import Image

from pipeline.ingest.invalid import InvalidImage

_MOST_SCANS = 20  # of an image with the most pixels; more of a smaller one
_MOST_LAYERS = 8  # colour planes stored apart

_TIFF_TYPES = {3: ("H", 2), 4: ("L", 4), 16: ("Q", 8)}  # SHORT, LONG, LONG8
_TIFF_SIZES = {256, 257, 273, 278, 322, 323, 324}  # width, length, strips, tiles: where the pixels go
_TIFF_LAYOUT = _TIFF_SIZES | {258, 277, 279, 320, 325, 338, 339}  # all that the decoder turns into numbers
_TIFF_MOST_VALUES = 500_000  # each costs 250 bytes and 5 us
_TIFF_LEAST_TILE = 1 << 24  # pixels of a tile, however small the image

_J2K_PART = 1024  # pixels that take as much memory as a tile or a code-block does by itself


def tame(data: bytes, kind: str, max_pixels: int) -> bytes:
    """The bytes to decode: those given, or the same picture where a decoder is slow to skip its comments.

    Raises InvalidImage, `too_many_pixels` or `corrupt`, for what costs more than `max_pixels` honest pixels.
    """
    if kind == "PPM" and re.match(rb"P[123]\s", data):
        return re.sub(rb"#[^\r\n]*[\r\n]?", b"", data)
    if check := _CHECKS.get(kind):
        try:
            check(data, max_pixels)
        except (struct.error, IndexError):
            raise InvalidImage("truncated", f"{kind}: it ends within its header") from None
    return data


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InvalidImage("too_many_pixels", f"{width} x {height}, more than {max_pixels} pixels")


def check_work(image: Image.Image, scans: int, max_pixels: int) -> None:
    """Of an image that is opened and not decoded; `scans`: how often its decoder goes over the pixels."""
    check_pixels(image.width, image.height, max_pixels)
    pixels = image.width * image.height
    if scans * pixels > _MOST_SCANS * max_pixels:
        raise InvalidImage("too_many_pixels", f"{scans} scans of {image.width} x {image.height}")
    parts = [part[1] for part in getattr(image, "tile", ()) if part[1]]
    if sum((right - left) * (bottom - top) for left, top, right, bottom in parts) > _MOST_LAYERS * pixels:
        raise InvalidImage("too_many_pixels", f"{len(parts)} parts, many times {image.width} x {image.height}")


def _check_webp(data: bytes, max_pixels: int) -> None:
    kind = data[12:16]
    if kind == b"VP8X":  # the animation's canvas, which its decoder allocates twice on opening
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    check_pixels(width, height, max_pixels)


def _check_tiff(data: bytes, max_pixels: int) -> None:
    order, big = "<" if data[:2] == b"II" else ">", data[2] == 43
    start, head, entry, field = (8, "Q", "HHQ8s", 8) if big else (4, "L", "HHL4s", 4)
    (position,) = struct.unpack_from(order + head, data, start)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, position)
    position += 8 if big else 2
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    for _ in range(entries):
        tag, kind, count, value = struct.unpack_from(order + entry, data, position)
        position += struct.calcsize("=" + entry)
        if tag in _TIFF_LAYOUT and count > _TIFF_MOST_VALUES:
            raise InvalidImage("corrupt", f"TIFF: {count} values in tag {tag}")
        if tag not in _TIFF_SIZES:
            continue
        if tag in seen or kind not in _TIFF_TYPES:  # readers differ on what such a file means
            raise InvalidImage("corrupt", f"TIFF: tag {tag} twice, or not of whole numbers")
        seen.add(tag)
        letter, width = _TIFF_TYPES[kind]
        if count == 1 and width <= field:
            (sizes[tag],) = struct.unpack_from(order + letter, value)
    pixels = sizes.get(256, 0) * sizes.get(257, 0)
    check_pixels(sizes.get(256, 0), sizes.get(257, 0), max_pixels)
    tile = sizes.get(322, 0) * sizes.get(323, 0)
    if tile > max(2 * pixels, _TIFF_LEAST_TILE):
        raise InvalidImage("too_many_pixels", f"TIFF: a tile of {sizes[322]} x {sizes[323]}")


def _check_jpeg_2000(data: bytes, max_pixels: int) -> None:
    start = 0 if data.startswith(b"\xff\x4f") else _codestream(data)
    if data[start : start + 4] != b"\xff\x4f\xff\x51":
        raise InvalidImage("corrupt", "JPEG 2000: the codestream does not begin with its size")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = struct.unpack_from(
        ">8IH", data, start + 8
    )
    width, height = max(0, right - left), max(0, bottom - top)
    check_pixels(width, height, max_pixels)
    if not tile_width or not tile_height:
        raise InvalidImage("corrupt", "JPEG 2000: tiles without pixels")
    tiles = -((tile_left - right) // tile_width) * -((tile_top - bottom) // tile_height)
    smallest = min(_block_sizes(data, start + 2, components), default=_J2K_PART)
    # Each tile and code-block costs the decoder as much as many pixels, however few it has.
    if max(tiles, width * height / smallest) * _J2K_PART > max_pixels:
        raise InvalidImage("too_many_pixels", f"JPEG 2000: {width} x {height} in {tiles} tiles, blocks of {smallest}")


def _codestream(data: bytes) -> int:
    """Where it begins in a file of boxes."""
    position = 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, position + 8)
            header = 16
        if kind == b"jp2c":
            return position + header
        if length < header:
            raise InvalidImage("corrupt", f"JPEG 2000: the box at byte {position} has no length")
        position += length


def _block_sizes(data: bytes, position: int, components: int) -> Iterator[int]:
    """Pixels of the smallest code-block or precinct of each coding style, in the main header and the tiles'."""
    tile_end = 0
    while position < len(data) and data[position : position + 2] != b"\xff\xd9":
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == 0xFF90:  # a tile-part
            (size,) = struct.unpack_from(">I", data, position + 6)
            tile_end = position + size if size else len(data)
        elif marker in (0xFF52, 0xFF53):  # a coding style: of all components, of one
            style = position + (4 if marker == 0xFF52 else 5 + (components > 256))
            levels = style + (5 if marker == 0xFF52 else 1)
            yield 1 << (data[levels + 1] & 15) + (data[levels + 2] & 15) + 4
            if data[style] & 1:
                yield from (1 << (side & 15) + (side >> 4) for side in data[levels + 5 : position + 2 + length])
        following = tile_end if marker == 0xFF93 else position + 2 + length  # 0xFF93: the tile-part's data
        if following <= position:
            raise InvalidImage("corrupt", f"JPEG 2000: the tile-part before byte {position} has no length")
        position = following


_CHECKS: dict[str, Callable[[bytes, int], None]] = {
    "JPEG2000": _check_jpeg_2000,
    "TIFF": _check_tiff,
    "WEBP": _check_webp,
}
