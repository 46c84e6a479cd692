"""What is wrong with a file is met by its policy: fixed, quarantined, or too much."""

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.ingest.image import Decoded, ImageRules, InvalidImage, decode, rules_of
from pipeline.ingest.problems import PROBLEMS, check_shares, complete_policies
from pipeline.recipe import load_config

SIZE = 16
NOISE = np.random.default_rng(0).integers(1, 255, (64, 64, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def frames(kind: str, count: int) -> bytes:
    pictures = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "lime", "blue")[:count]]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


def problem(data: bytes, path: str = "", **rules: Any) -> str:
    """What refuses `data` when nothing is fixed."""
    with pytest.raises(InvalidImage) as caught:
        decode(data, ImageRules(SIZE, 3, "white", fixes=(), **rules), path)
    return caught.value.reason


def fixed(data: bytes, path: str = "", *, fixes: tuple[str, ...] = tuple(PROBLEMS), **rules: Any) -> Decoded:
    return decode(data, ImageRules(SIZE, 3, "white", fixes=fixes, **rules), path)


# Animated


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "PNG", "TIFF", "WEBP"])
def test_more_than_one_frame_is_animated_and_fixed_by_taking_the_first(kind):
    assert problem(frames(kind, 3)) == "animated"
    assert problem(frames(kind, 2)) == "animated"
    got = fixed(frames(kind, 3))
    assert got.fixed == ("animated",)
    assert np.abs(got.pixels.astype(int) - [255, 0, 0]).max() <= (0 if kind != "AVIF" else 40)


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "PNG", "TIFF", "WEBP"])
def test_one_frame_is_not_animated(kind):
    assert fixed(encoded(Image.fromarray(NOISE), kind)).fixed == ()
    assert fixed(frames(kind, 1)).fixed == ()


def test_what_follows_the_end_of_a_gif_is_no_frame():
    assert fixed(frames("GIF", 1)[:-1] + b"\0,\1\2").fixed == ()


def test_the_second_picture_in_a_cameras_jpeg_is_no_animation():
    pictures = [Image.fromarray(NOISE), Image.fromarray(NOISE[::-1].copy())]
    data = encoded(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "MPO" and image.n_frames == 2  # type: ignore[attr-defined]
    assert fixed(data, "photo.jpg").fixed == ()


# Too small, extreme aspect


def test_the_shorter_side_counts():
    data = encoded(Image.new("RGB", (40, 7)))
    assert fixed(data, min_side=7).fixed == ()
    assert problem(data, min_side=8) == "too_small"
    assert fixed(data, min_side=8).fixed == ("too_small",)


def test_the_longer_by_the_shorter_side_counts():
    for size in ((32, 8), (8, 32)):
        data = encoded(Image.new("RGB", size))
        assert fixed(data, max_aspect=4.0).fixed == ()
        assert problem(data, max_aspect=3.99) == "extreme_aspect"
        got = fixed(data, max_aspect=3.99)
        assert got.fixed == ("extreme_aspect",) and (got.width, got.height) == size


def test_a_refused_size_is_not_decoded_first(monkeypatch):
    loaded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: loaded.append(self))
    assert problem(encoded(Image.fromarray(NOISE)), min_side=65) == "too_small"
    assert not loaded


# Wrong extension


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("PNG", ["a.png", "A.PNG", "b/c.apng", "no-extension", "d.jpg/e", "a.jpg.unknown", ".png", ""]),
        ("JPEG", ["a.jpg", "a.jpeg", "a.jfif", "a.mpo"]),
        ("TIFF", ["a.tif", "a.tiff"]),
        ("BMP", ["a.bmp", "a.dib"]),
        ("JPEG2000", ["a.jp2", "a.j2k", "a.jpx"]),
        ("PPM", ["a.ppm", "a.pgm", "a.pnm"]),
        ("WEBP", ["a.webp"]),
    ],
)
def test_the_right_extensions(kind, names):
    for name in names:
        assert fixed(encoded(Image.fromarray(NOISE), kind), name).fixed == ()


def test_an_extension_of_another_format():
    data = encoded(Image.fromarray(NOISE))
    for name in ("a.jpg", "b/a.JPEG", "a.webp", "a.tga", "a.pdf"):
        assert problem(data, name) == "wrong_extension"
        got = fixed(data, name)
        assert got.fixed == ("wrong_extension",)
        assert np.array_equal(got.pixels, fixed(data).pixels)


# Truncated


def test_what_there_is_of_a_png_and_the_rest_in_the_background():
    data = encoded(Image.fromarray(NOISE), compress_level=0)  # so that half of the bytes are half of the rows
    half = data[: len(data) // 2]
    assert problem(half) == "truncated"
    rules = ImageRules(64, 3, "#0000ff", fixes=("truncated",))
    got = decode(half, rules)
    assert got.fixed == ("truncated",) and (got.width, got.height) == (64, 64)
    same = (got.pixels == NOISE).all((1, 2))
    assert 28 <= same.sum() <= 34 and same[: same.sum()].all()
    assert (got.pixels[same.sum() + 1 :] == [0, 0, 255]).all()


def test_what_there_is_of_a_transparent_png():
    alpha = np.dstack([NOISE, np.full((64, 64), 200, np.uint8)])
    data = encoded(Image.fromarray(alpha), compress_level=0)
    got = decode(data[: len(data) // 2], ImageRules(64, 3, "#0000ff", fixes=("truncated",)))
    assert (got.pixels[40:] == [0, 0, 255]).all() and not (got.pixels[:20] == [0, 0, 255]).all()


def test_what_there_is_of_a_jpeg():
    smooth = np.asarray(Image.fromarray(NOISE[:4, :4]).resize((64, 64), Image.Resampling.BICUBIC))
    data = encoded(Image.fromarray(smooth), "JPEG", quality=95)
    whole, half = fixed(data), data[: len(data) * 2 // 3]
    got = decode(half, ImageRules(64, 3, "black", fixes=("truncated",)))
    decoded = decode(data, ImageRules(64, 3, "black")).pixels
    same = (got.pixels == decoded).all((1, 2))
    assert whole.fixed == () and got.fixed == ("truncated",)
    assert 8 <= same.sum() <= 48 and same[: same.sum()].all()
    assert not got.pixels[-8:].any()


def test_a_jpeg_that_lacks_only_its_end_marker_loses_no_more_than_a_row_of_blocks():
    data = encoded(Image.fromarray(NOISE), "JPEG", subsampling=0)
    got = decode(data[:-2], ImageRules(64, 3, "white", fixes=("truncated",)))
    assert got.fixed == ("truncated",)
    assert np.array_equal(got.pixels[:-8], decode(data, ImageRules(64, 3, "white")).pixels[:-8])


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"progressive": True}), ("WEBP", {}), ("AVIF", {}), ("JPEG2000", {}), ("TIFF", {}), ("BMP", {})],
)
def test_other_formats_cut_in_the_middle_stay_refused(kind, options):
    data = encoded(Image.fromarray(NOISE), kind, **options)
    with pytest.raises(InvalidImage):
        fixed(data[: len(data) // 2])


def test_an_interlaced_png_cut_in_the_middle_stays_refused():
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row.tobytes() for y, x, down, right in passes for row in NOISE[y::down, x::right]]
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 0)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    assert np.array_equal(decode(data, ImageRules(64, 3, "white")).pixels, NOISE)
    with pytest.raises(InvalidImage, match="truncated"):
        fixed(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_of_which_nothing_is_left_stays_refused(kind):
    data = encoded(Image.fromarray(NOISE), kind)
    start = data.index(b"IDAT") + 4 if kind == "PNG" else data.index(b"\xff\xda") + 14
    for cut in (10, 30, start, start + 2):
        with pytest.raises(InvalidImage, match="truncated"):
            fixed(data[:cut])


def test_nothing_is_left_of_one_call_in_the_next():
    data = encoded(Image.fromarray(NOISE), compress_level=0)
    fixed(data[: len(data) // 2])
    assert problem(data[: len(data) // 2]) == "truncated"


# Policies


def test_every_problem_has_a_policy_and_every_fix_is_possible():
    policies = complete_policies({})
    assert set(policies) == set(PROBLEMS)
    for name, what in PROBLEMS.items():
        assert policies[name] in ("fix", "quarantine")
        assert what.fix or policies[name] == "quarantine"


def test_several_problems_of_one_file_are_all_told():
    pictures = [Image.new("RGB", (32, 4), colour) for colour in ("red", "blue")]
    data = encoded(pictures[0], "GIF", save_all=True, append_images=pictures[1:])
    got = fixed(data, "a.png", min_side=5, max_aspect=2.0)
    assert got.fixed == ("wrong_extension", "animated", "too_small", "extreme_aspect")
    refused = fixed(data, "a.png", fixes=("wrong_extension", "animated", "extreme_aspect"), min_side=4, max_aspect=2.0)
    assert refused.fixed == ("wrong_extension", "animated", "extreme_aspect")
    with pytest.raises(InvalidImage, match="too_small"):
        fixed(data, "a.png", fixes=("wrong_extension", "animated", "extreme_aspect"), min_side=5, max_aspect=2.0)


def config(*overrides: str) -> Any:
    return load_config("small", ["data.source=x", "data.resolution=32", *overrides]).data


def test_policies_come_from_the_recipe():
    rules = rules_of(config("data.problems.animated=quarantine", "data.problems.truncated=fix"))
    assert rules.fixes == ("extreme_aspect", "too_small", "truncated", "wrong_extension")
    assert (rules.min_side, rules.max_aspect) == (8, 8.0)
    rules = rules_of(config("data.min_side=20", "data.max_aspect=2", "data.background='#00FF00'"))
    assert (rules.min_side, rules.max_aspect, rules.background) == (20, 2.0, "#00ff00")
    assert config("data.problems.corrupt=0").problems["corrupt"] == 0.0
    assert config("data.background='#FFFFFF'").background == "white"


def test_ordinary_files_of_any_size_stay_valid():
    rules = rules_of(config())
    for side in range(20, 91, 7):
        for other in (20, 55, 90):
            assert decode(encoded(Image.new("RGB", (side, other))), rules, "a.png").fixed == ()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.problems.empty=fix", "data.problems: empty cannot be fixed; take quarantine, or a share"),
        ("data.problems.corrupt=fix", "data.problems: corrupt cannot be fixed"),
        ("data.problems.corrupt=1.5", "data.problems: corrupt: 1.5 is none of fix, quarantine and a share"),
        ("data.problems.corrupt=.nan", "data.problems: corrupt: nan is none of"),
        ("data.problems.corrupt=true", "data.problems: corrupt: True is none of"),
        ("data.problems.corrupt=ignore", "data.problems: corrupt: 'ignore' is none of"),
        ("data.problems.blurred=fix", "data.problems: no problem is called 'blurred'; there are unreadable, empty"),
        ("data.problems=3", "data.problems: give a policy for each problem"),
        ("data.min_side=0", "data.min_side: "),
        ("data.max_aspect=0.5", "data.max_aspect: "),
        (
            "data.background=teal",
            "data.background: write white, black or a colour in quotes, \"#rrggbb\" (it is 'teal')",
        ),
        ("data.background='#12345'", "data.background: write white"),
        ("data.background=#123456", "data.background: write white"),  # a comment, to YAML
    ],
)
def test_an_impossible_policy_is_one_line(override, said):
    with pytest.raises(UserError) as caught:
        config(override)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_shares():
    policies = complete_policies({"corrupt": 0.02, "truncated": 0, "too_small": 1.0})
    check_shares({"corrupt": 20, "animated": 900, "empty": 900, "too_small": 1000}, 1000, policies)
    check_shares({}, 0, policies)
    with pytest.raises(UserError) as caught:
        check_shares({"corrupt": 21, "truncated": 1}, 1000, policies)
    said = str(caught.value)
    assert "21 of 1000 files are corrupt, a share of 0.021, above data.problems.corrupt 0.02" in said
    assert re.search(r"1 of 1000 files are truncated, a share of 0\.001, above data\.problems\.truncated 0;", said)
