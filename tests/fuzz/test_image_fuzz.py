"""Whatever the bytes, `decode` gives pixels or an InvalidImage, soon and in bounded memory. `make fuzz` tries more."""

import contextlib
import io
import json
import os
import select
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.ingest.problems import PROBLEMS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc")

INPUTS = int(os.environ.get("FUZZ_INPUTS", 300))
SECONDS = 5.0  # an input; a megapixel is allowed, and the machine may be busy
BYTES = 64 << 20  # beside what the process had: 30 for each pixel that is allowed, and as much again


def fuzz(share: float) -> Any:
    """The same inputs each time when there are few, so that a change is what makes a difference."""
    return settings(
        max_examples=max(1, round(INPUTS * share)),
        deadline=None,
        derandomize="FUZZ_INPUTS" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )


class Decoder:
    """The process that decodes; another one once it had to be stopped."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.outcomes: Counter[str] = Counter()

    def check(self, data: bytes) -> str:
        if self.process is None:
            command = [sys.executable, str(Path(__file__).with_name("decoder.py"))]
            # What libtiff and Pillow's logger say of broken files is of no interest.
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(struct.pack(">I", len(data)) + data)
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        said = self.process.stdout.readline() if ready else b""
        if not said:
            self.stop()
            raise AssertionError(f"{'it died' if ready else 'it hangs'}, decoding {data!r}")
        took = json.loads(said)
        self.outcomes[took["outcome"]] += 1
        assert took["outcome"] in ("decoded", *PROBLEMS), f"{took} for {data!r}"
        assert took["seconds"] < SECONDS, f"{took} for {data!r}"
        assert took["bytes"] < BYTES, f"{took} for {data!r}"
        return took["outcome"]

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder()
    yield decoder
    decoder.stop()
    print(dict(decoder.outcomes))


def _seeds() -> list[bytes]:
    """Small files of every format that is read, in the ways in which it is written."""
    noise = np.random.default_rng(0).integers(0, 256, (13, 17, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise, "RGBA")
    rgb, grey, deep = rgba.convert("RGB"), rgba.convert("L"), Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    more = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *(
            (image, "PNG", {})
            for image in (rgb, rgba, grey, deep, rgba.convert("LA"), rgb.quantize(9), grey.convert("1"))
        ),
        *(
            (rgb, "PNG", options)
            for options in ({"exif": exif}, more, {"compress_level": 0}, {"icc_profile": b"x" * 99})
        ),
        *((rgb, "JPEG", options) for options in ({}, {"progressive": True}, {"exif": exif}, {"subsampling": 0})),
        *((rgb, "JPEG", options) for options in ({"restart_marker_blocks": 1}, {"icc_profile": b"x" * 99})),
        *((image, "JPEG", {}) for image in (grey, rgb.convert("CMYK"))),
        (rgb, "MPO", more),
        *((rgb, "GIF", options) for options in ({}, more, {"transparency": 3}, {"interlace": 1, "comment": b"hello"})),
        *((image, "BMP", {}) for image in (rgb, rgba, grey, rgb.quantize(9), grey.convert("1"))),
        *(
            (rgb, "TIFF", {"compression": name})
            for name in ("raw", "tiff_lzw", "jpeg", "packbits", "zstd", "tiff_deflate")
        ),
        *((grey.convert("1"), "TIFF", {"compression": name}) for name in ("group3", "group4", "tiff_ccitt")),
        *((image, "TIFF", {}) for image in (rgba, deep, grey.convert("F"), grey.convert("I"), rgb.convert("LAB"))),
        *((rgb, "TIFF", options) for options in (more, {"big_tiff": True}, {"exif": exif})),
        *((rgba, "WEBP", options) for options in ({}, {"lossless": True}, {"exif": exif}, more)),
        *((image, "PPM", {}) for image in (rgb, grey, deep, grey.convert("1"), grey.convert("F"))),
        *((rgba, "AVIF", options) for options in ({}, {"exif": exif})),
        (rgb, "AVIF", more),
        *((image, "JPEG2000", {}) for image in (rgb, rgba, grey, deep)),
        *(
            (rgb, "JPEG2000", options)
            for options in ({"no_jp2": True}, {"tile_size": (8, 8)}, {"codeblock_size": (4, 4)})
        ),
    ]
    seeds = []
    for image, kind, options in wanted:
        stream = io.BytesIO()
        options = {**options, "append_images": [page.copy() for page in options.get("append_images", [])]}
        image.copy().save(stream, kind, **options)  # a copy: saving leaves traces
        seeds.append(stream.getvalue())
    plain = [b"P1 # c\n4 2\n0 1 0 1 1 0 0 1", b"P2 2 2 9 1 2 3 4", b"P3 1 2 99 1 2 3 # c\n4 5 6", b"P0CMYK 1 1 9 abcd"]
    rle = bytearray(next(seed for seed in seeds if seed.startswith(b"BM") and seed[28] == 8))
    struct.pack_into("<I", rle, 30, 1)
    return [*seeds, *plain, bytes(rle)]


SEEDS = _seeds()
EDGES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1000, 16384, 65535, 1 << 20)


def mended(data: bytes) -> bytes:
    """With right checksums and lengths where a decoder, or ours, would look no further."""
    if data.startswith(b"RIFF"):
        return data[:4] + struct.pack("<I", max(0, len(data) - 8)) + data[8:]
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    position, out = 8, data[:8]
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            break
        out += data[position : end - 4] + struct.pack(">I", zlib.crc32(data[position + 4 : end - 4]))
        position = end
    return out + data[position:]


def changed(data: bytes, change: tuple[str, int, int, int]) -> bytes:
    kind, at, size, value = change
    at %= len(data) + 1
    edge = EDGES[value % len(EDGES)]
    if kind == "byte":
        return data[:at] + bytes([value & 255]) + data[at + 1 :]
    if kind == "bit":
        return data[:at] + bytes(byte ^ 1 << (value & 7) for byte in data[at : at + 1]) + data[at + 1 :]
    if kind == "edge":
        width = (1, 2, 4)[size % 3]
        number = (edge & (1 << 8 * width) - 1).to_bytes(width, "big" if value & 64 else "little")
        return data[:at] + number + data[at + width :]
    if kind == "drop":
        return data[:at] + data[at + size :]
    if kind == "repeat":
        return data[: at + size] + data[at : at + size] * (value % 50) + data[at + size :]
    return data[:at]  # cut


places = st.one_of(st.integers(0, 64), st.integers(0, 1 << 14))
changes = st.lists(
    st.tuples(
        st.sampled_from(["byte", "bit", "edge", "edge", "drop", "repeat", "cut"]), places, st.integers(1, 99), places
    ),
    min_size=1,
    max_size=6,
)


@fuzz(0.75)
@given(st.sampled_from(SEEDS), changes, st.booleans())
def test_mutated_files(decoder, data, edits, mend):
    for edit in edits:
        data = changed(data, edit)
    decoder.check(mended(data) if mend else data)


@fuzz(0.15)
@given(st.sampled_from(SEEDS), st.sampled_from(SEEDS), places, places, st.booleans())
def test_the_head_of_one_file_on_the_body_of_another(decoder, head, body, end, start, mend):
    data = head[: end % (len(head) + 1)] + body[start % (len(body) + 1) :]
    decoder.check(mended(data) if mend else data)


@fuzz(0.1)
@given(st.sampled_from([b"", *(seed[:size] for seed in SEEDS for size in (4, 12, 30))]), st.binary(max_size=600))
def test_random_bytes(decoder, head, rest):
    decoder.check(head + rest)


def test_the_seeds_themselves_are_decoded(decoder):
    for seed in SEEDS:
        assert decoder.check(seed) == "decoded", seed[:40]


def test_a_decoder_that_dies_or_fails_is_seen(decoder):
    decoder.check(SEEDS[0])
    decoder.process.kill()
    with pytest.raises((AssertionError, BrokenPipeError)):
        decoder.check(SEEDS[0])
    with contextlib.suppress(BrokenPipeError):
        decoder.stop()
