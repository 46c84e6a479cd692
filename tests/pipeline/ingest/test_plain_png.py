"""What plain PNG files are made into must be what Pillow makes of them."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.ingest import image
from pipeline.ingest.complete import check_complete
from pipeline.ingest.image import ImageRules, InvalidImage, decode
from pipeline.ingest.plain_png import decode_plain_png

MOST = 1 << 20
GAMMA = (b"gAMA", struct.pack(">I", 45455))
TURNED = (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")  # orientation 6


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(header: tuple, pixels: bytes, *before: tuple[bytes, bytes], pieces: int = 1, after: bytes = b"") -> bytes:
    """`header`: width, height, depth, colour, compression, filter, interlace; `pixels` are deflated already."""
    step = -(-len(pixels) // pieces)
    idat = [chunk(b"IDAT", pixels[at : at + step]) for at in range(0, len(pixels), step)]
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", *header)), *(chunk(*each) for each in before), *idat]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + after + chunk(b"IEND", b"")


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
        pixels = np.asarray(opened)
    return pixels.reshape(*pixels.shape[:2], -1)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([(0, 1), (2, 3)]), st.randoms(use_true_random=False),
    st.integers(1, 4), st.sampled_from([(), (GAMMA,), (GAMMA, (b"tIME", b"\x07\xea\x0b\x19\0\0\0"))]),
)  # fmt: skip
def test_all_filters_give_pillows_pixels(width, height, colour, random, pieces, before):
    """A row's filter is its first byte, and any bytes may follow it."""
    number, channels = colour
    rows = b"".join(bytes([random.randrange(5)]) + random.randbytes(width * channels) for _ in range(height))
    data = png((width, height, 8, number, 0, 0, 0), zlib.compress(rows), *before, pieces=pieces)
    assert check_complete(data).plain
    pixels = decode_plain_png(data, MOST)
    assert pixels is not None and pixels.dtype == np.uint8
    assert np.array_equal(pixels, by_pillow(data))


RGB_ROWS = zlib.compress(b"".join(b"\0" + bytes(range(20 * row, 20 * row + 24)) for row in range(8)))
RGB_HEADER = (8, 8, 8, 2, 0, 0, 0)
NOT_PLAIN = {
    "turned": png(RGB_HEADER, RGB_ROWS, TURNED),
    "transparent": png(RGB_HEADER, RGB_ROWS, (b"tRNS", bytes(6))),
    "animated": png(RGB_HEADER, RGB_ROWS, (b"acTL", struct.pack(">II", 2, 0))),
    "with a comment": png(RGB_HEADER, RGB_ROWS, (b"tEXt", b"Comment\0none")),
    "a chunk after the pixels": png(RGB_HEADER, RGB_ROWS, after=chunk(b"tRNS", bytes(6))),
    "half a gamma": png(RGB_HEADER, RGB_ROWS, (b"gAMA", b"\0\0")),
    "two headers": png(RGB_HEADER, RGB_ROWS, (b"IHDR", struct.pack(">IIBBBBB", *RGB_HEADER))),
    "deep": png((4, 8, 16, 2, 0, 0, 0), RGB_ROWS),
    "with alpha": png((6, 8, 8, 6, 0, 0, 0), RGB_ROWS),
    "paletted": png((24, 8, 8, 3, 0, 0, 0), RGB_ROWS, (b"PLTE", bytes(768))),
    "interlaced": png((1, 1, 8, 2, 0, 0, 1), zlib.compress(bytes(4))),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_others_are_left_to_pillow(kind):
    data = NOT_PLAIN[kind]
    assert not check_complete(data).plain or decode_plain_png(data, MOST) is None


BROKEN = {
    "rows missing": zlib.compress(bytes(25 * 7)),
    "no such filter": zlib.compress(b"\x07" + bytes(25 * 8 - 1)),
    "no zlib": b"neither here nor there",
    "cut": RGB_ROWS[:-20],
}
RULES = [ImageRules(8, 3, "white"), ImageRules(5, 1, "white"), ImageRules(16, 3, "white", min_side=9, fixes=())]


def outcome(data: bytes, rules: ImageRules) -> tuple:
    try:
        found = decode(data, rules, "name.png")
    except InvalidImage as why:
        return why.reason, why.detail
    return found.pixels.tobytes(), found.width, found.height, found.mode, found.fixed


@pytest.mark.parametrize("rules", RULES)
def test_each_file_has_the_outcome_that_pillow_alone_would_give(rules, monkeypatch):
    files = {
        "plain": png(RGB_HEADER, RGB_ROWS),
        "grey": png((24, 8, 8, 0, 0, 0, 0), RGB_ROWS),
        "wide": png((80, 2, 8, 0, 0, 0, 0), zlib.compress(bytes(162))),
        "more rows": png(RGB_HEADER, zlib.compress(bytes(25 * 9))),
        "no checksum": png(RGB_HEADER, RGB_ROWS[:-4]),
        "empty": png((0, 8, 8, 2, 0, 0, 0), RGB_ROWS),
        **NOT_PLAIN,
        **{name: png(RGB_HEADER, pixels) for name, pixels in BROKEN.items()},
    }
    found = {name: outcome(data, rules) for name, data in files.items()}
    monkeypatch.setattr(image, "decode_plain_png", lambda *_: None)
    assert found == {name: outcome(data, rules) for name, data in files.items()}


def test_a_wrong_checksum_of_the_rows_alone_is_let_pass_where_the_chunks_are_sound():
    """In this Pillow is stricter, as the module says."""
    data = png(RGB_HEADER, RGB_ROWS[:-1] + bytes([RGB_ROWS[-1] ^ 1]))
    with pytest.raises(OSError, match="broken data stream"):
        by_pillow(data)
    assert np.array_equal(decode(data, RULES[0]).pixels, by_pillow(png(RGB_HEADER, RGB_ROWS)))


def test_plain_files_do_not_need_pillow(monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    assert decode(png(RGB_HEADER, RGB_ROWS), RULES[0]).pixels.shape == (8, 8, 3)


def test_pixels_are_counted_before_they_are_decoded():
    bomb = png((60_000, 60_000, 8, 2, 0, 0, 0), zlib.compress(bytes(1 << 20)))
    with pytest.raises(InvalidImage, match="60000 x 60000") as caught:
        decode(bomb, RULES[0])
    assert caught.value.reason == "too_many_pixels"
