"""Random, mutated and made-up tars through the indexer: no crash, no hang, no memory without bound.

FUZZ_INPUTS is how many; a few by default.
"""

import io
import os
import resource
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.ingest.image import ImageRules
from pipeline.shards.foreign.find import FoundTar
from pipeline.shards.foreign.scan import Job, Refused, scan_tar
from pipeline.shards.tar import walk
from pipeline.storage import Storage

FUZZ = settings(
    max_examples=max(1, int(os.environ.get("FUZZ_INPUTS", "300")) // 3),  # each of three kinds
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
BLOCK = 512
SECONDS, BYTES = 5.0, 300 << 20


def image(number: int, format: str) -> bytes:
    pixels, buffer = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8), io.BytesIO()
    if format == "npy":
        np.save(buffer, pixels)
    else:
        Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


IMAGES = [image(0, "png"), image(1, "jpeg"), image(2, "webp"), image(3, "npy"), b"", b"\x89PNG\r\n\x1a\n"]


def sound(format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        members = {"a/0.png": IMAGES[0], "a/0.cls": b"3", "1.jpg": IMAGES[1], "1.json": b'{"label": "x"}'}
        long = "folder/" * 14 + "ü" * (20 if format == tarfile.USTAR_FORMAT else 60)
        members |= {"2.webp": IMAGES[2], f"{long}.npy": IMAGES[3], "3.txt": b"no image"}
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


SOUND = [sound(format) for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
numbers = st.integers(0, 2**63)
octets = st.binary(max_size=40)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    storage = Storage(str(tmp_path_factory.mktemp("fuzz")))
    storage.local_path("tars").mkdir()
    return Job(storage, "fuzz", ImageRules(8, 3, "white"), None, "auto")


@contextmanager
def bounded() -> Iterator[None]:
    """In processor time, which a busy machine does not stretch, and in how much the peak of memory grows."""
    begun, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begun < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < BYTES


def check(job: Job, data: bytes) -> None:
    path = job.storage.local_path("tars/a.tar")
    path.write_bytes(data)
    tar = FoundTar(str(path), len(data), "")
    with bounded():
        for expected in (None, len(data), len(data) + 1):
            found = walk(data, expected)
            end = 0
            for member in found.members:
                assert end <= member.at < member.offset <= member.offset + member.size <= len(data)
                end = member.padded_end
            assert all(0 <= fault.at < len(data) for fault in found.faults)
            assert len({fault.at for fault in found.faults}) == len(found.faults) <= len(data) // BLOCK + 1
        result = scan_tar(job, tar)
    if isinstance(result, Refused):
        assert result.uri == str(path) and result.why and "\n" not in result.why
        return
    rows = pq.read_table(io.BytesIO(job.storage.read(job.path(tar)))).to_pylist()
    assert len(rows) == result
    for row in rows:
        if not row["reason"]:
            assert zlib.crc32(data[row["offset"] : row["offset"] + row["size"]]) == row["crc32"]
            assert row["begin"] < row["offset"] and row["end"] >= row["offset"] + row["size"]


@FUZZ
@given(data=st.one_of(st.binary(max_size=6000), st.integers(0, 40).map(lambda blocks: bytes(blocks * BLOCK))))
def test_bytes_of_any_kind(job, data):
    check(job, data)


@st.composite
def mutated(draw) -> bytes:
    """A sound tar, changed in a few places; a changed header has its checksum mended half of the time."""
    data = bytearray(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["byte", "field", "block", "cut", "drop", "copy", "swap"]))
        block = at // BLOCK * BLOCK
        if kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "field" and len(data) >= block + BLOCK:
            # name, mode, size, checksum, type, magic, version, prefix
            place, width = draw(
                st.sampled_from([(0, 100), (100, 8), (124, 12), (148, 8), (156, 1), (257, 6), (345, 99)])
            )
            value = draw(st.one_of(st.binary(min_size=width, max_size=width), numbers.map(lambda n: b"%o" % n)))
            data[block + place : block + place + width] = value[:width].ljust(width, b"\0")
        elif kind == "block":
            data[block : block + BLOCK] = draw(st.sampled_from([bytes(BLOCK), b"\xff" * BLOCK, b""]))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 3 * BLOCK))]
        elif kind == "copy":
            data[block:block] = data[: draw(st.integers(1, 12)) * BLOCK]
        elif kind == "swap":
            data[block : block + 2 * BLOCK] = data[block + BLOCK : block + 2 * BLOCK] + data[block : block + BLOCK]
        if draw(st.booleans()) and len(data) >= block + BLOCK:
            data[block : block + BLOCK] = with_checksum(bytes(data[block : block + BLOCK]))
    return bytes(data)


def with_checksum(header: bytes) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


@FUZZ
@given(data=mutated())
def test_sound_tars_with_damage(job, data):
    check(job, data)


@st.composite
def entry(draw) -> bytes:
    """A header with a right checksum, whatever else it says, and bytes of whatever length after it."""
    body = draw(st.one_of(st.sampled_from(IMAGES), octets, records()))
    info = tarfile.TarInfo(
        draw(st.sampled_from(["a.png", "a.cls", "a.json", "b.npy", "B.PNG", "__m__/c.png", ".d", ""]))
    )
    info.type = draw(
        st.sampled_from([b"0", b"\0", b"1", b"2", b"5", b"7", b"g", b"x", b"X", b"L", b"K", b"S", b"M", b"?"])
    )
    honest = draw(st.integers(0, 3)) > 0
    info.size = len(body) if honest else draw(st.one_of(st.integers(-9, 3000), numbers))
    header = with_checksum(info.tobuf(tarfile.GNU_FORMAT))
    return header + body + bytes(-len(body) % BLOCK)


@st.composite
def records(draw) -> bytes:
    made = b""
    for _ in range(draw(st.integers(0, 4))):
        keyword = draw(st.sampled_from([b"path", b"size", b"mtime", b"GNU.sparse.major", b"comment", b""]))
        value = draw(st.one_of(octets, numbers.map(lambda n: b"%d" % n), st.just(b"c.png")))
        length = len(keyword) + len(value) + 3
        length += len(str(length + len(str(length))))
        made += b"%d %s=%s\n" % (draw(st.sampled_from([length] * 9 + [0, 10**8])), keyword, value)
    return made


@FUZZ
@given(data=st.lists(entry(), max_size=14).map(lambda entries: b"".join(entries) + bytes(2 * BLOCK)))
def test_headers_that_say_anything(job, data):
    check(job, data)


def test_headers_that_nest_are_not_read_again_and_again():
    """Each block begins half a megabyte of records, in which each block begins half a megabyte of records."""
    size = BLOCK * 1024
    info = tarfile.TarInfo(f"{size} comment=x")
    info.size, info.type = size, b"x"
    data = with_checksum(info.tobuf(tarfile.GNU_FORMAT)[:-1] + b"\n") * 60_000
    with bounded():
        found = walk(data, len(data))
    assert found.members == [] and "8 headers that describe no member" in found.faults[0].what
