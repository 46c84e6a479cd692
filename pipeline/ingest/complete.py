"""Is a file all there? Decoders stop at the last pixel, so they miss a lost tail or a damaged checksum."""

import re
from typing import NamedTuple

from isal import isal_zlib

from pipeline.ingest.invalid import InvalidImage

# A marker with a meaning of its own: not a stuffed zero, a fill byte or a restart within the pixel data.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"\x93NUMPY": "NPY",
    # Little- and big-endian; +: more than 4 GB. The last two have the bytes of * the wrong way round, as some write it.
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"MM*\0": "TIFF",
    b"II\0*": "TIFF",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "JPEG2000",  # boxed
    b"\xff\x4f\xff\x51": "JPEG2000",  # bare
}

# Pillow inflates up to 1 MB of each, and does not count them all.
_PNG_DEFLATED = {b"zTXt", b"iTXt", b"iCCP"}
_PNG_MOST_DEFLATED = 500

# What may follow each chunk of a plain one: nothing that makes it transparent, turns it or moves it. What the chunks
# beside the pixels say is not applied to any image.
_PNG_BESIDE = {b"gAMA": 4, b"pHYs": 9, b"sRGB": 1, b"tIME": 7}  # bytes of each
_PNG_PLAIN = {
    b"": (b"IHDR",),
    **dict.fromkeys((b"IHDR", *_PNG_BESIDE), (*_PNG_BESIDE, b"IDAT")),
    b"IDAT": (b"IDAT", b"IEND"),
}


class Counted(NamedTuple):
    """What a walk through the file met; 1 where it cannot tell."""

    frames: int = 1
    scans: int = 1  # passes over the pixels
    plain: bool = False  # a PNG of which nothing but its size and its pixels matters


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format, or NPY, from the signature alone; None for any other."""
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1", b"msf1"):
        return "AVIF"
    return "PPM" if re.match(rb"P[0-6fy]", data) else None


def check_complete(data: bytes) -> Counted:
    """Raises InvalidImage, `truncated` or `corrupt`. Other formats: their decoder tells."""
    kind = format_of(data)
    if kind == "PNG":
        return Counted(plain=_check_png(data))
    if kind == "JPEG":
        return Counted(scans=_check_jpeg(data))
    if kind == "GIF":
        return Counted(frames=_check_gif(data))
    if kind == "WEBP":
        if 8 + int.from_bytes(data[4:8], "little") > len(data):
            raise InvalidImage("truncated", "WebP: shorter than its header says")
    elif kind == "JPEG2000" and b"\xff\xd9" not in data:
        raise InvalidImage("truncated", "JPEG 2000: no end-of-codestream marker")
    return Counted()


def _check_png(data: bytes) -> bool:
    """Whether it is a plain one."""
    # Pillow's verify() walks the chunks too, but takes IEND's checksum on trust.
    view = memoryview(data)
    position, deflated, plain, last = 8, 0, True, b""
    while last != b"IEND":
        end = position + 12 + int.from_bytes(view[position : position + 4], "big")
        if end > len(view):
            raise InvalidImage("truncated", f"PNG: it ends within the chunk at byte {position}")
        if isal_zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise InvalidImage("corrupt", f"PNG: wrong checksum in the chunk at byte {position}")
        kind = data[position + 4 : position + 8]
        deflated += kind in _PNG_DEFLATED
        if deflated > _PNG_MOST_DEFLATED:
            raise InvalidImage("corrupt", f"PNG: more than {_PNG_MOST_DEFLATED} compressed texts and profiles")
        size = end - position - 12
        plain = plain and kind in _PNG_PLAIN.get(last, ()) and size == _PNG_BESIDE.get(kind, size)
        position, last = end, kind
    return plain


def _check_jpeg(data: bytes) -> int:
    # Segments are jumped over, so a thumbnail's end marker is not taken for the image's.
    position, scans = 2, 0
    while found := _JPEG_MARKER.search(data, position):
        marker, position = data[found.start() + 1], found.end()
        if marker == 0xD9:
            return scans
        scans += marker == 0xDA
        if marker not in (0x01, 0xD8):  # these two have no segment
            position += int.from_bytes(data[position : position + 2], "big")
    raise InvalidImage("truncated", "JPEG: no end-of-image marker")


def _check_gif(data: bytes) -> int:
    frames = 0
    try:
        position = 13 + _gif_colours(data[10])
        while data[position] in (0x21, 0x2C):
            if data[position] == 0x21:
                position += 2
            else:
                frames += 1
                position += 11 + _gif_colours(data[position + 9])
            while data[position]:
                position += 1 + data[position]
            position += 1
    except IndexError:
        raise InvalidImage("truncated", "GIF: no trailer") from None
    return frames


def _gif_colours(flags: int) -> int:
    """Bytes of the colour table that `flags` announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
