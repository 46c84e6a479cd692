"""Arrays as image files, written by numpy itself."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from pipeline.ingest import image
from pipeline.ingest.image import ImageRules, InvalidImage, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
RGB, GREY = ImageRules(8, 3, "white"), ImageRules(8, 1, "white")


def saved(array: np.ndarray) -> bytes:
    np.save(stream := io.BytesIO(), array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("array", "rules", "expected"),
    [
        (PIXELS, RGB, PIXELS),
        (np.asfortranarray(PIXELS), RGB, PIXELS),
        (PIXELS[..., 0], GREY, PIXELS[..., :1]),
        (PIXELS[..., :1], GREY, PIXELS[..., :1]),
        (PIXELS[..., 0], RGB, PIXELS[..., [0, 0, 0]]),
        (PIXELS, GREY, np.asarray(Image.fromarray(PIXELS).convert("L"))[..., None]),
        (PIXELS.repeat(2, 0).repeat(2, 1), ImageRules(16, 3, "white"), PIXELS.repeat(2, 0).repeat(2, 1)),
    ],
)
def test_uint8_arrays_are_images(array, rules, expected):
    found = decode(saved(array), rules, "x.npy")
    assert np.array_equal(found.pixels, expected)
    assert (found.width, found.height, found.fixed) == (array.shape[1], array.shape[0], ())


def test_they_are_brought_to_size_as_images_are():
    small = ImageRules(4, 3, "white")
    Image.fromarray(PIXELS).save(stream := io.BytesIO(), "PNG")
    assert np.array_equal(decode(saved(PIXELS), small).pixels, decode(stream.getvalue(), small).pixels)


def with_header(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + PIXELS.tobytes()


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved(PIXELS.astype(np.float32)), "not_an_image"),
        (saved(PIXELS[..., [0, 1, 2, 2]]), "not_an_image"),
        (saved(PIXELS[:0]), "truncated"),
        (saved(np.array([Hostile()], dtype=object)), "not_an_image"),
        (saved(PIXELS)[:-1], "truncated"),
        (saved(PIXELS)[:40], "corrupt"),
        (saved(PIXELS).replace(b"(8, 8, 3)", b"(9**9999)"), "corrupt"),
        (saved(PIXELS).replace(b"(8, 8, 3), }        ", b"(80000, 80000, 3), }"), "truncated"),
        (saved(PIXELS.repeat(2, 0)), "too_many_pixels"),
        (saved(PIXELS).replace(b"(8, 8, 3), }      ", b"(8, 8, True), }   "), "corrupt"),
        (with_header(f"(0x{'f' * 5000}, 8, 3)"), "corrupt"),
    ],
)
def test_others_are_refused(data, reason):
    with pytest.raises(InvalidImage) as caught:
        decode(data, ImageRules(8, 3, "white", max_pixels=64))
    assert caught.value.reason == reason


@pytest.mark.filterwarnings("error")
def test_a_header_of_python_2_is_read_in_silence():
    decode(saved(PIXELS), RGB)  # which says once for all what not to warn of
    header = with_header("(8L, 8L, 3L)")
    with warnings.catch_warnings():
        image._formats.cache_clear()
        assert np.array_equal(decode(header, RGB).pixels, PIXELS)


def test_another_format_under_the_name_is_told():
    assert decode(saved(PIXELS), RGB, "x.png").fixed == ("wrong_extension",)
    Image.fromarray(PIXELS).save(stream := io.BytesIO(), "PNG")
    assert decode(stream.getvalue(), RGB, "x.npy").fixed == ("wrong_extension",)
