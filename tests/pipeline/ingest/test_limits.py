"""Small files that would take much memory or time are refused before a decoder sees them."""

import io
import json
import struct
import subprocess
import sys
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hurry import within
from PIL import Image

from pipeline.ingest.image import ImageRules, InvalidImage, decode

MILLION = ImageRules(16, 3, "white", max_pixels=1_000_000)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def refused(data: bytes, monkeypatch: pytest.MonkeyPatch, *, opened: bool = False) -> str:
    """The reason, given before the file is decoded, or even opened."""

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("a decoder has seen it")

    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load" if opened else "PIL.Image.open", never)
        with pytest.raises(InvalidImage) as caught:
            decode(data, MILLION)
    assert "a decoder has seen it" not in caught.value.detail
    return caught.value.reason


# WebP: the decoder allocates the canvas when it is made


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True}])
def test_a_webp_is_measured_before_it_is_opened(monkeypatch, options):
    def webp(height: int) -> bytes:
        more = {"append_images": [Image.new("RGB", (1000, height), "red")]} if options.get("save_all") else {}
        return encoded(Image.new("RGB", (1000, height)), "WEBP", **options, **more)

    assert decode(webp(1000), MILLION).width == 1000
    assert refused(webp(1001), monkeypatch) == "too_many_pixels"


def test_a_webp_canvas_far_larger_than_its_frames(monkeypatch):
    frames = [Image.new("RGBA", (16, 16), colour) for colour in ("red", "blue")]
    data = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))
    at = data.index(b"VP8X")
    data[at + 12 : at + 18] = (2**24 - 1).to_bytes(3, "little") * 2
    assert refused(bytes(data), monkeypatch) == "too_many_pixels"


# TIFF


def tiff(tags: dict[int, tuple[str, list[int]]], pixels: bytes = b"", *, again: tuple[int, ...] = ()) -> bytes:
    """Little-endian; `tags`: struct letter and values. 273 and 324 count from where `pixels` begin."""
    entries = sorted([*tags.items(), *((tag, tags[tag]) for tag in again)])
    start = 8 + 2 + 12 * len(entries) + 4
    end = start + sum(struct.calcsize("<" + letter) * len(v) for _, (letter, v) in entries if len(v) > 1)
    head, tail = b"", b""
    for tag, (letter, values) in entries:
        values = [value + end for value in values] if tag in (273, 324) and letter == "L" else values
        packed = struct.pack(f"<{len(values)}{letter}", *values)
        kind = {"B": 1, "H": 3, "L": 4}[letter]
        place = packed.ljust(4, b"\0") if len(values) == 1 else struct.pack("<L", start + len(tail))
        tail += packed if len(values) > 1 else b""
        head += struct.pack("<HHL", tag, kind, len(values)) + place
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + head + b"\0\0\0\0" + tail + pixels


def grey(width: int, height: int, compression: int = 1) -> dict[int, tuple[str, list[int]]]:
    return {256: ("L", [width]), 257: ("L", [height]), 258: ("H", [8]), 259: ("H", [compression]), 262: ("H", [1])}


def test_a_tiff_in_strips_and_in_tiles():
    square = np.arange(256, dtype=np.uint8).reshape(16, 16)
    strips = grey(16, 16) | {278: ("L", [4]), 273: ("L", [0, 64, 128, 192]), 279: ("L", [64] * 4)}
    got = decode(tiff(strips, square.tobytes()), MILLION)
    assert np.array_equal(got.pixels[..., 0], square)
    tile = np.zeros((64, 64), np.uint8)
    tile[:16, :16] = square
    for compression, data in ((1, tile.tobytes()), (8, zlib.compress(tile.tobytes()))):
        tiles = grey(16, 16, compression) | {
            n: ("L", [v]) for n, v in ((322, 64), (323, 64), (324, 0), (325, len(data)))
        }
        assert np.array_equal(decode(tiff(tiles, data), MILLION).pixels[..., 0], square)


@pytest.mark.parametrize("options", [{}, {"big_tiff": True}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}])
def test_tiffs_that_pillow_writes(options):
    got = decode(encoded(Image.fromarray(NOISE), "TIFF", **options), MILLION)
    assert (got.width, got.height) == (48, 48)


def test_strips_that_cover_the_image_again_and_again(monkeypatch):
    offsets = list(range(2000))
    strips = grey(100, 100) | {278: ("L", [51]), 273: ("L", offsets), 279: ("L", [5100] * 2000)}
    data = tiff(strips, bytes(20_000))
    assert refused(data, monkeypatch, opened=True) == "too_many_pixels"


def test_a_tile_far_larger_than_its_image(monkeypatch):
    side = 30_000
    data = zlib.compress(bytes(side), 9)
    tiles = grey(16, 16, 8) | {n: ("L", [v]) for n, v in ((322, side), (323, side), (324, 0), (325, len(data)))}
    assert refused(tiff(tiles, data), monkeypatch) == "too_many_pixels"


@pytest.mark.parametrize(("tag", "letter"), [(273, "L"), (273, "B"), (279, "H"), (320, "H")])
def test_more_parts_than_an_image_can_have(monkeypatch, tag, letter):
    strips = grey(16, 16) | {273: ("L", [0] * 16), 279: ("L", [16] * 16)}
    values = bytes(500_001 * struct.calcsize("<" + letter))
    data = tiff({**strips, tag: (letter, [0, 0])}, values)
    kind = {"B": 1, "H": 3, "L": 4}[letter]
    entry = struct.pack("<HHL", tag, kind, 2)
    assert refused(data.replace(entry, struct.pack("<HHL", tag, kind, 500_001)), monkeypatch) == "corrupt"


def test_a_size_that_two_readers_may_read_as_two(monkeypatch):
    strips = grey(16, 16) | {273: ("L", [0]), 279: ("L", [256])}
    assert decode(tiff(strips, bytes(256)), MILLION).width == 16
    assert refused(tiff(strips, bytes(256), again=(256,)), monkeypatch) == "corrupt"
    assert refused(tiff(strips | {257: ("B", [16])}, bytes(256)), monkeypatch) == "corrupt"


def test_a_tiff_is_measured_before_it_is_opened(monkeypatch):
    assert refused(tiff(grey(1000, 1001)), monkeypatch) == "too_many_pixels"


# JPEG 2000


def codestream(size: tuple[int, int], tile: tuple[int, int] | None = None, **options: Any) -> bytes:
    """Of one small tile, with another size written over its own."""
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG2000", no_jp2=True, **options))
    struct.pack_into(">II", data, 8, *size)
    struct.pack_into(">II", data, 24, *(tile or size))
    return bytes(data)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_jp2": True},
        {"codeblock_size": (32, 32)},
        {"codeblock_size": (4, 4)},
        {"tile_size": (16, 16)},
        {"precinct_size": (32, 32), "num_resolutions": 3},
        {"irreversible": True, "mct": 1, "plt": True},
        {"offset": (8, 8), "tile_offset": (0, 0), "tile_size": (32, 32)},
    ],
)
def test_jpeg_2000_of_every_layout(options):
    for pixels in (NOISE, NOISE[..., 0], np.dstack([NOISE, NOISE[..., 0]])):
        got = decode(encoded(Image.fromarray(pixels), "JPEG2000", **options), MILLION)
        assert (got.width, got.height) == (48, 48)


@pytest.mark.parametrize(
    ("size", "tile", "options"),
    [
        ((1000, 1001), None, {}),
        ((1000, 1000), None, {"codeblock_size": (4, 4)}),
        ((1000, 1000), None, {"precinct_size": (4, 4), "num_resolutions": 1}),
        ((1000, 1000), (10, 10), {}),
        ((255, 255), (1, 1), {}),
    ],
)
def test_jpeg_2000_in_more_parts_than_pixels_warrant(monkeypatch, size, tile, options):
    assert refused(codestream(size, tile, **options), monkeypatch) == "too_many_pixels"


def test_the_coding_style_of_one_component_or_one_tile_counts(monkeypatch):
    data = codestream((1000, 1000))
    first = data.index(b"\xff\x52")
    style = data[first : first + 14]
    small = style[:10] + b"\0\0" + style[12:]
    component = b"\xff\x53" + struct.pack(">HBB", 9, 0, 0) + small[9:14]
    assert refused(data[:first] + component + data[first:], monkeypatch) == "too_many_pixels"
    tile = data.index(b"\xff\x90") + 12
    assert refused(data[:tile] + small + data[tile:], monkeypatch) == "too_many_pixels"


def test_a_box_that_states_another_size_than_its_codestream(monkeypatch):
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG2000"))
    at = data.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">II", data, at + 8, 9000, 9000)
    assert refused(bytes(data), monkeypatch) == "too_many_pixels"


def test_a_decoy_codestream_in_another_box(monkeypatch):
    data = encoded(Image.new("RGB", (64, 64)), "JPEG2000")
    honest = bytearray(data)
    at = honest.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">II", honest, at + 8, 9000, 9000)
    decoy = struct.pack(">I4s", 8 + len(data[at:]), b"free") + data[at:]
    assert refused(bytes(honest[:12] + decoy + honest[12:]), monkeypatch) == "too_many_pixels"


# JPEG, PNG, PPM, AVIF


def test_a_jpeg_of_too_many_scans(monkeypatch):
    data = encoded(Image.fromarray(NOISE).resize((900, 900)), "JPEG", progressive=True)
    assert decode(data, MILLION).width == 900
    last = data[data.rindex(b"\xff\xda") : -2]
    assert refused(data[:-2] + last * 30 + b"\xff\xd9", monkeypatch, opened=True) == "too_many_pixels"
    small = encoded(Image.fromarray(NOISE), "JPEG", progressive=True)
    last = small[small.rindex(b"\xff\xda") : -2]
    assert decode(small[:-2] + last * 30 + b"\xff\xd9", ImageRules(16, 3, "white", max_pixels=1_000_001)).width == 48


def test_scans_are_not_decoded_for_an_end_that_never_comes(monkeypatch):
    data = encoded(Image.fromarray(NOISE), "JPEG", progressive=True)[:-2]
    rules = ImageRules(16, 3, "white", fixes=("truncated",))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it is decoded"))
    with pytest.raises(InvalidImage, match="truncated"):
        decode(data, rules)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(("kind", "head"), [(b"iCCP", b"x\0\0"), (b"zTXt", b"\0\0"), (b"iTXt", b"x\0\1\0\0\0")])
def test_a_png_of_too_many_compressed_texts(monkeypatch, kind, head):
    data = encoded(Image.fromarray(NOISE))
    bomb = chunk(kind, head + zlib.compress(bytes(1 << 20), 9))
    assert decode(data[:33] + bomb * 3 + data[33:], MILLION).width == 48
    assert refused(data[:33] + bomb * 501 + data[33:], monkeypatch) == "corrupt"


def test_a_text_that_inflates_without_end():
    data = encoded(Image.fromarray(NOISE))
    bomb = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 26), 9))
    with pytest.raises(InvalidImage, match="corrupt"):
        decode(data[:33] + bomb + data[33:], MILLION)


def test_comments_in_a_plain_ppm():
    body = b"P3 # a comment\n2 2 # 9\n255\n10 20 30 # x\n40 50#\n 60 70 80 90\r100 110 1# in a number\n20"
    got = decode(body, ImageRules(2, 3, "white"))
    assert got.pixels.ravel().tolist() == list(range(10, 130, 10))
    started = time.monotonic()
    slow = b"P3 2 2 255 " + b"#\n" * 3_000_000 + b"10 20 30 40 50 60 70 80 90 100 110 120"
    assert np.array_equal(decode(slow, ImageRules(2, 3, "white")).pixels, got.pixels)
    assert time.monotonic() - started < within(10)  # Pillow by itself moves half a megabyte for each comment: minutes


def test_an_avif_whose_pixels_are_more_than_it_says():
    data = bytearray(encoded(Image.new("RGB", (400, 400)), "AVIF"))
    at = data.index(b"ispe")
    struct.pack_into(">II", data, at + 8, 16, 16)
    assert decode(bytes(data), MILLION).width == 16  # libavif's own limit holds, and it scales


# Memory

MEASURE = """
import json, sys
from pipeline.ingest.image import ImageRules, decode

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

rules = ImageRules(16, 3, "#123456")
data = open(sys.argv[1], "rb").read()
before = peak()
decode(data, rules)
print(json.dumps(peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {}), ("PNG", "I;16", {}), ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("GIF", "P", {"transparency": 0}), ("TIFF", "F", {}), ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0}), ("AVIF", "RGBA", {"speed": 10}), ("JPEG2000", "RGBA", {}),
    ],
)  # fmt: skip
def test_memory_stays_below_thirty_bytes_a_pixel(tmp_path, kind, mode, options):
    side = 2000
    image = Image.new(mode, (side, side), (1, 2, 3, 100) if mode == "RGBA" else 0)
    (tmp_path / "image").write_bytes(encoded(image, kind, **options))
    ran = subprocess.run([sys.executable, "-c", MEASURE, tmp_path / "image"], capture_output=True, check=True)
    assert json.loads(ran.stdout) <= 30 * side * side + (8 << 20)  # and the libraries that it loads
