"""Is a file all there? Decoders stop at the last pixel, so they miss a lost tail or a damaged checksum."""

import re
import zlib

from pipeline.ingest.invalid import InvalidImage

# A marker with a meaning of its own: not a stuffed zero, a fill byte or a restart within the pixel data.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

_JPEG_2000 = (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")  # boxed, bare


def check_complete(data: bytes) -> None:
    """Raises InvalidImage, `truncated` or `corrupt`. Other formats: their decoder tells."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data)
    elif data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if 8 + int.from_bytes(data[4:8], "little") > len(data):
            raise InvalidImage("truncated", "WebP: shorter than its header says")
    elif data.startswith(_JPEG_2000) and b"\xff\xd9" not in data:
        raise InvalidImage("truncated", "JPEG 2000: no end-of-codestream marker")


def _check_png(data: bytes) -> None:
    # Pillow's verify() walks the chunks too, but takes IEND's checksum on trust.
    view = memoryview(data)
    position = 8
    while True:
        end = position + 12 + int.from_bytes(view[position : position + 4], "big")
        if end > len(view):
            raise InvalidImage("truncated", f"PNG: it ends within the chunk at byte {position}")
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise InvalidImage("corrupt", f"PNG: wrong checksum in the chunk at byte {position}")
        if view[position + 4 : position + 8] == b"IEND":
            return
        position = end


def _check_jpeg(data: bytes) -> None:
    # Segments are jumped over, so a thumbnail's end marker is not taken for the image's.
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        marker, position = data[found.start() + 1], found.end()
        if marker == 0xD9:
            return
        if marker not in (0x01, 0xD8):  # these two have no segment
            position += int.from_bytes(data[position : position + 2], "big")
    raise InvalidImage("truncated", "JPEG: no end-of-image marker")


def _check_gif(data: bytes) -> None:
    try:
        position = 13 + _gif_colours(data[10])
        while data[position] in (0x21, 0x2C):
            if data[position] == 0x21:
                position += 2
            else:
                position += 11 + _gif_colours(data[position + 9])
            while data[position]:
                position += 1 + data[position]
            position += 1
    except IndexError:
        raise InvalidImage("truncated", "GIF: no trailer") from None


def _gif_colours(flags: int) -> int:
    """Bytes of the colour table that `flags` announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
