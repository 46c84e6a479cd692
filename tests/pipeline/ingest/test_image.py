"""Every expectation here is computed from arrays or by hand, never with the code under test."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from pipeline.ingest.complete import check_complete
from pipeline.ingest.image import ImageRules, InvalidImage, decode

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, which pytest brings back

SIZE = 16
GREY = ImageRules(SIZE, 1, "white")
RGB = ImageRules(SIZE, 3, "white")
RGB_ON_BLACK = ImageRules(SIZE, 3, "black")
NOISE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 4), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int, colour: int, rows: list[bytes], *chunks: bytes, width: int = SIZE) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def composite(colour: np.ndarray, alpha: np.ndarray, background: int | np.ndarray) -> np.ndarray:
    share = alpha.astype(float)[..., None] / 255
    return colour * share + background * (1 - share)


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(float) @ [0.299, 0.587, 0.114]


def off_by(actual: np.ndarray, expected: np.ndarray) -> float:
    expected = expected.reshape(SIZE, SIZE, -1)
    return float(np.abs(actual.astype(float) - expected).max())


def reason(data: bytes, rules: ImageRules = RGB) -> str:
    with pytest.raises(InvalidImage) as caught:
        decode(data, rules)
    assert caught.value.detail
    assert "\n" not in caught.value.detail
    return caught.value.reason


# Modes


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_and_grey_of_the_right_size_are_kept_bit_for_bit(kind):
    got = decode(encoded(Image.fromarray(NOISE[..., :3]), kind), RGB)
    assert (got.width, got.height, got.mode) == (SIZE, SIZE, "RGB")
    assert got.pixels.dtype == np.uint8
    assert np.array_equal(got.pixels, NOISE[..., :3])
    grey = encoded(Image.fromarray(NOISE[..., 0]), kind)
    assert np.array_equal(decode(grey, GREY).pixels, NOISE[..., :1])
    assert np.array_equal(decode(grey, RGB).pixels, NOISE[..., [0, 0, 0]])


def test_rgb_to_grey_is_luma():
    got = decode(encoded(Image.fromarray(NOISE[..., :3])), GREY)
    assert off_by(got.pixels, luma(NOISE[..., :3])) <= 1


def test_bilevel():
    bits = NOISE[..., 0] > 127
    got = decode(encoded(Image.fromarray(bits)), GREY)
    assert got.mode == "1"
    assert np.array_equal(got.pixels[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize(("rules", "background"), [(RGB, 255), (RGB_ON_BLACK, 0)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_lies_over_the_background(kind, rules, background):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    got = decode(encoded(Image.fromarray(NOISE, "RGBA"), kind, **options), rules)
    assert got.mode == "RGBA"
    assert off_by(got.pixels, composite(NOISE[..., :3], NOISE[..., 3], background)) <= 1


TEAL = ImageRules(SIZE, 3, "#008080")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_lies_over_any_colour(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    teal = np.array([0, 128, 128])
    got = decode(encoded(Image.fromarray(NOISE, "RGBA"), kind, **options), TEAL)
    assert off_by(got.pixels, composite(NOISE[..., :3], NOISE[..., 3], teal)) <= 1


def test_grey_lies_over_a_colour_and_a_colour_under_grey():
    grey = encoded(Image.fromarray(NOISE[..., [0, 3]].copy(), "LA"))
    over_teal = composite(NOISE[..., [0, 0, 0]], NOISE[..., 3], np.array([0, 128, 128]))
    assert off_by(decode(grey, TEAL).pixels, over_teal) <= 1
    assert off_by(decode(grey, ImageRules(SIZE, 1, "#008080")).pixels, luma(over_teal)) <= 1.5


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha(kind):
    got = decode(encoded(Image.fromarray(NOISE[..., [0, 3]].copy(), "LA"), kind), GREY)
    assert got.mode == "LA"
    assert off_by(got.pixels, composite(NOISE[..., :1], NOISE[..., 3], 255)) <= 1


def paletted() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """An image, its indices (SIZE, SIZE) and its colours (16, 3)."""
    indices = NOISE[..., 0] % 16
    colours = np.random.default_rng(1).integers(0, 256, (16, 3), dtype=np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.tobytes())
    return image, indices, colours


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette(kind):
    image, indices, colours = paletted()
    got = decode(encoded(image, kind), RGB)
    assert got.mode == "P"
    assert np.array_equal(got.pixels, colours[indices])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_one_transparent_colour(kind):
    image, indices, colours = paletted()
    expected = colours[indices]
    expected[indices == 5] = 0
    assert (indices == 5).any()
    assert np.array_equal(decode(encoded(image, kind, transparency=5), RGB_ON_BLACK).pixels, expected)


def test_palette_with_alpha_per_colour():
    image, indices, colours = paletted()
    alpha = np.arange(16, dtype=np.uint8) * 17
    got = decode(encoded(image, transparency=alpha.tobytes()), RGB)
    assert off_by(got.pixels, composite(colours[indices], alpha[indices], 255)) <= 1


def test_palette_with_alpha_channel():
    image, indices, colours = paletted()
    image = image.convert("PA")
    image.putalpha(Image.fromarray(NOISE[..., 3]))
    got = decode(encoded(image, "TIFF"), RGB)
    assert got.mode == "PA"
    assert off_by(got.pixels, composite(colours[indices], NOISE[..., 3], 255)) <= 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    flat = np.empty((SIZE, SIZE, 4), np.uint8)
    flat[...] = [40, 90, 200, 30]
    got = decode(encoded(Image.fromarray(flat, "CMYK"), kind), RGB)
    ink = flat.astype(float) / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    assert got.mode == "CMYK"
    assert off_by(got.pixels, expected) <= 3


def test_ycbcr():
    flat = np.empty((SIZE, SIZE, 3), np.uint8)
    flat[...] = [120, 90, 180]
    got = decode(encoded(Image.fromarray(flat, "YCbCr"), "TIFF"), RGB)
    y, cb, cr = 120, 90 - 128, 180 - 128
    expected = np.array([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb])
    assert got.mode == "YCbCr"
    assert off_by(got.pixels, np.tile(expected, (SIZE, SIZE, 1))) <= 1


DEEP = np.random.default_rng(2).integers(0, 65536, (SIZE, SIZE), dtype=np.uint16)
DEEP_AS_BYTES = np.array([[round(int(value) / 257) for value in row] for row in DEEP], np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    got = decode(encoded(Image.fromarray(DEEP), kind), GREY)
    assert got.mode == "I;16"
    assert np.array_equal(got.pixels[..., 0], DEEP_AS_BYTES)


def test_sixteen_bits_big_endian_and_pgm():
    big = Image.frombytes("I;16B", (SIZE, SIZE), DEEP.astype(">u2").tobytes())
    assert np.array_equal(decode(encoded(big, "TIFF"), GREY).pixels[..., 0], DEEP_AS_BYTES)
    pgm = b"P5\n16 16\n65535\n" + DEEP.astype(">u2").tobytes()
    assert np.array_equal(decode(pgm, GREY).pixels[..., 0], DEEP_AS_BYTES)
    dark = b"P5\n16 16\n65535\n" + (DEEP % 256).astype(">u2").tobytes()
    assert decode(dark, GREY).pixels.max() == 1  # 255 of 65535 is nearly black


def test_wide_integers():
    wide = Image.fromarray(DEEP.astype(np.int32))
    assert np.array_equal(decode(encoded(wide, "TIFF"), GREY).pixels[..., 0], DEEP_AS_BYTES)
    narrow = Image.fromarray(NOISE[..., 0].astype(np.int32))
    assert np.array_equal(decode(encoded(narrow, "TIFF"), GREY).pixels, NOISE[..., :1])


def test_floats():
    unit = Image.fromarray(NOISE[..., 0].astype(np.float32) / 255)
    assert np.array_equal(decode(encoded(unit, "TIFF"), GREY).pixels, NOISE[..., :1])
    byte_range = Image.fromarray(NOISE[..., 0].astype(np.float32))
    assert np.array_equal(decode(encoded(byte_range, "TIFF"), GREY).pixels, NOISE[..., :1])
    assert reason(encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF")) == "corrupt"


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_png_with_one_transparent_value(depth):
    top = (1 << depth) - 1
    values = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) * 251 % (top + 1)
    key = int(values[3, 3])
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = [np.packbits(row.ravel()).tobytes() for row in bits]
    expected = np.floor(values * (255 / top) + 0.5)
    expected[values == key] = 255
    got = decode(png(depth, 0, rows, chunk(b"tRNS", struct.pack(">H", key))), GREY)
    assert off_by(got.pixels, expected) == 0
    on_black = decode(png(depth, 0, rows, chunk(b"tRNS", struct.pack(">H", key))), RGB_ON_BLACK)
    assert not on_black.pixels[values == key].any()


# Geometry


def test_the_centre_square_is_cut_out_without_resampling():
    wide = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE + 9, 3), dtype=np.uint8)
    got = decode(encoded(Image.fromarray(wide)), RGB)
    assert (got.width, got.height) == (SIZE + 9, SIZE)
    assert np.array_equal(got.pixels, wide[:, 4 : 4 + SIZE])
    tall = wide.transpose(1, 0, 2).copy()
    assert np.array_equal(decode(encoded(Image.fromarray(tall)), RGB).pixels, tall[4 : 4 + SIZE])


def test_shrinking_is_antialiased():
    stripes = np.zeros((SIZE * 8, SIZE * 8), np.uint8)
    stripes[:, ::2] = 255
    got = decode(encoded(Image.fromarray(stripes)), GREY).pixels
    assert np.abs(got[2:-2, 2:-2].astype(float) - 127.5).max() <= 2


def lanczos(values: np.ndarray, size: int) -> np.ndarray:
    """Lanczos-3, widened by the scale when shrinking, along axis 0; from the kernel's definition."""
    scale = len(values) / size
    stretch = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    offsets = (np.arange(len(values)) + 0.5 - centres[:, None]) / stretch
    weights = np.where(np.abs(offsets) < 3, np.sinc(offsets) * np.sinc(offsets / 3), 0)
    return np.tensordot(weights / weights.sum(1, keepdims=True), values, 1)


@pytest.mark.parametrize("side", [8, 15, 40])
def test_resize_is_one_lanczos(side):
    smooth = np.random.default_rng(4).integers(60, 200, (side, side)).astype(np.uint8)
    expected = lanczos(lanczos(smooth.astype(float), SIZE).T, SIZE).T
    got = decode(encoded(Image.fromarray(smooth)), GREY).pixels
    assert off_by(got, np.clip(expected, 0, 255)) <= 1.6  # two passes, each rounded


def test_transparent_colours_do_not_bleed_when_resized():
    hidden_red = np.zeros((64, 64, 4), np.uint8)
    hidden_red[:, :32] = [255, 0, 0, 0]
    hidden_red[:, 32:] = [255, 255, 255, 255]
    assert decode(encoded(Image.fromarray(hidden_red)), RGB).pixels.min() == 255


UPRIGHT = {  # EXIF 2.32, tag 274: where row 0 and column 0 of the stored array belong
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((SIZE, SIZE + 8, 3), np.uint8)
    stored[:8, :12], stored[8:, :12], stored[8:, 12:] = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    options = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}
    got = decode(encoded(Image.fromarray(stored), kind, exif=exif, **options[kind]), RGB)
    expected = UPRIGHT[orientation](stored)
    assert (got.height, got.width) == expected.shape[:2]
    top, left = (expected.shape[0] - SIZE) // 2, (expected.shape[1] - SIZE) // 2
    difference = off_by(got.pixels, expected[top : top + SIZE, left : left + SIZE].astype(float))
    assert difference <= (40 if kind == "JPEG" else 0)


def test_broken_exif_does_not_spoil_the_pixels():
    data = png(8, 2, [row.tobytes() for row in NOISE[..., :3]], chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"))
    assert np.array_equal(decode(data, RGB).pixels, NOISE[..., :3])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    assert (decode(data, RGB).pixels == [255, 0, 0]).all()


# What is refused


def test_no_bytes_and_no_image():
    assert reason(b"") == "empty"
    assert reason(b"hello, I am no picture\n" * 10) == "not_an_image"
    assert reason(bytes(1000)) == "not_an_image"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n") == "not_an_image"


COLOUR = Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("GIF", {}), ("WEBP", {}),
        ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}),
        ("AVIF", {}), ("JPEG2000", {}),
    ],
)  # fmt: skip
def test_a_file_cut_anywhere_is_found(kind, options):
    data = encoded(COLOUR, kind, **options)
    decode(data, RGB)
    cuts = {*range(8, 300), *range(300, len(data), 37), *range(len(data) - 40, len(data))}
    for cut in sorted(cuts):
        said = reason(data[:cut])
        if kind in ("PNG", "JPEG"):
            assert said == "truncated"


def test_an_exif_thumbnail_does_not_stand_in_for_the_end_of_a_jpeg():
    thumbnail = encoded(Image.new("RGB", (8, 8)), "JPEG")
    data = encoded(COLOUR, "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert thumbnail in data
    check_complete(data)
    with pytest.raises(InvalidImage, match="truncated"):
        check_complete(data[:-2])


def test_bytes_after_the_end_are_no_fault():
    for kind in ("PNG", "JPEG", "GIF", "WEBP"):
        decode(encoded(COLOUR, kind) + b"\0" * 99 + b"trailer", RGB)


def test_any_flipped_png_checksum_or_payload_bit_is_found():
    data = png(8, 2, [row.tobytes() for row in NOISE[..., :3]], chunk(b"gAMA", struct.pack(">I", 45455)))
    decode(data, RGB)
    position = 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        for flipped in (position + 8 + length, position + 11 + length, position + 8 + length // 2):
            assert reason(data[:flipped] + bytes([data[flipped] ^ 1]) + data[flipped + 1 :]) == "corrupt"
        position += 12 + length


def test_pixels_are_counted_before_decoding(monkeypatch):
    data = encoded(COLOUR)
    assert decode(data, ImageRules(SIZE, 3, "white", max_pixels=2000)).width == 50
    loaded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: loaded.append(self))
    assert reason(data, ImageRules(SIZE, 3, "white", max_pixels=1999)) == "too_many_pixels"
    assert not loaded


@pytest.mark.parametrize("side", [10_001, 100_000])
def test_a_bomb_is_refused(side):
    bomb = png(8, 2, [b""], width=side)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    assert reason(bomb[:8] + header + bomb[8 + 25 :]) == "too_many_pixels"


def test_pillow_prints_no_warning(tmp_path):
    bomb = chunk(b"IHDR", struct.pack(">IIBBBBB", 9_800, 9_800, 1, 0, 0, 0, 0))  # above Pillow's warning
    (tmp_path / "bomb").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    code = (
        "import sys, warnings; from pipeline.ingest.image import ImageRules, InvalidImage, decode\n"
        "try: decode(open(sys.argv[1], 'rb').read(), ImageRules(16, 3, 'white'))\n"
        "except InvalidImage: warnings.warn('ours')"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, tmp_path / "bomb"], capture_output=True, text=True, check=True
    )
    assert "Decompression" not in ran.stderr and "ours" in ran.stderr
