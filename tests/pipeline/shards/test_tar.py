"""The members of tars that other tools wrote, as those tools list them, and what is wrong with damaged ones."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline.shards.tar import BLOCK, Walk, open_tar, walk
from pipeline.storage import Storage

LONG = "a-folder-with-a-long-name/" * 5 + "x" * 120 + ".png"
NAMES = ["a.png", "deep/b.jpg", LONG, "größe/日本.png", "c.d.e.json"]


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(256)) * number + b"!")
    (tmp_path / "in/link").symlink_to("a.png")
    os.link(tmp_path / "in/a.png", tmp_path / "in/z-hard-link")
    os.mkfifo(tmp_path / "in/pipe")
    return tmp_path / "in"


def as_tarfile_has_them(data: bytes) -> list[tuple[str, int, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(m.name, m.offset_data, tar.extractfile(m).read()) for m in tar if m.type in tarfile.REGULAR_TYPES]


def told(data: bytes) -> list[tuple[str, int, bytes]]:
    found = walk(data)
    assert found.ended and not [fault for fault in found.faults if fault.hides]
    return [(m.name, m.offset, data[m.offset : m.offset + m.size]) for m in found.members]


def header(name: str, size: int, kind: bytes = b"0", format: int = tarfile.GNU_FORMAT) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(format)


def pax(records: dict[str, str], kind: bytes = b"x") -> bytes:
    """As GNU tar and Python write them; `header` follows."""
    return tarfile.TarInfo._create_pax_generic_header(records, kind, "utf-8")


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)


@pytest.mark.parametrize("kind", ["gnu", "oldgnu", "pax", "posix"])
def test_what_gnu_tar_wrote(folder, kind):
    data = subprocess.run(["tar", f"--format={kind}", "-c", "."], cwd=folder, capture_output=True, check=True).stdout
    assert len(told(data)) == len(NAMES) and told(data) == as_tarfile_has_them(data)


@pytest.mark.parametrize("kind", ["ustar", "v7"])
def test_what_gnu_tar_wrote_in_formats_of_short_names(folder, kind):
    data = subprocess.run(
        ["tar", f"--format={kind}", "-c", "a.png", "deep", "c.d.e.json"], cwd=folder, capture_output=True, check=True
    ).stdout
    assert [name for name, _, _ in told(data)] == ["a.png", "deep/b.jpg", "c.d.e.json"]
    assert told(data) == as_tarfile_has_them(data)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_wrote(folder, format):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, pax_headers={"comment": "of all"}) as tar:
        for path in sorted(folder.rglob("*")):
            if format != tarfile.USTAR_FORMAT or len(str(path.relative_to(folder))) < 90:
                tar.add(path, path.relative_to(folder), recursive=False)
    assert told(buffer.getvalue()) == as_tarfile_has_them(buffer.getvalue())


def test_a_member_begins_with_the_headers_that_describe_it():
    data = header("a", 1) + block(b"a") + pax({"path": "b", "mtime": "1.5"}) + header("x", 1) + block(b"b") + END
    a, b = walk(data).members
    assert (a.at, a.offset, a.padded_end) == (0, BLOCK, 2 * BLOCK)
    assert (b.name, b.at, b.offset) == ("b", 2 * BLOCK, 5 * BLOCK)


def test_a_path_for_all_and_one_of_its_own():
    data = pax({"path": "of all"}, b"g") + header("x", 0) + pax({"path": "own"}) + header("y", 0) + header("z", 0) + END
    assert [member.name for member in walk(data).members] == ["of all", "own", "of all"]


@pytest.mark.parametrize("kind", ["base-256", "PAX"])
def test_sizes_that_eight_octal_digits_do_not_hold(tmp_path, kind):
    size = 9 << 30
    begin = header("big", size) if kind == "base-256" else pax({"size": str(size)}) + header("big", 0)
    path = tmp_path / "big.tar"
    with open(path, "wb") as file:
        file.write(begin)
        file.seek(size, os.SEEK_CUR)  # a hole
        file.write(header("small", 1) + block(b"s") + END)
    with open_tar(Storage(str(tmp_path)), "big.tar") as data:
        found = walk(data)
        assert [(m.name, m.size) for m in found.members] == [("big", size), ("small", 1)]
        assert found.ended and data[found.members[1].offset] == ord("s")
    with tarfile.open(path) as tar:
        assert [m.offset_data for m in tar] == [m.offset for m in found.members]


def one(found: Walk) -> tuple[int, str]:
    assert len(found.faults) == 1, found.faults
    return found.faults[0].at, found.faults[0].what


A, B = header("a", 1) + block(b"a"), header("b", 1) + block(b"b")
AT = len(A)

DAMAGED = {
    "a zeroed header": (bytes(BLOCK), "the header is zeroed"),
    "a garbled header": (b"\xa5" * BLOCK, "its checksum is wrong"),
    "a negative size": (header("n", -7), "its size is negative"),
    "PAX records of another length": (header("p", 9, b"x") + block(b"20 path=b\n"), "its records can not be read"),
    "PAX records without an end": (header("p", 9, b"x") + block(b"9 path=bb"), "its records can not be read"),
    "PAX records that are none": (header("p", 9, b"x") + block(b"\x80\x81\x82456789"), "its records can not be read"),
    "a long name of a megabyte and more": (header("n", 2 << 20, b"L") + bytes(2 << 20), "only describes a member"),
    "a name as long as no path": (header("n", 5000, b"L") + block(b"n" * 5000) + header("x", 0), "5000 characters"),
    "a sparse file of GNU tar": (header("s", 0, b"S"), "sparse"),
    "a sparse file in PAX": (pax({"GNU.sparse.major": "1"}) + header("s", 0), "sparse"),
    "nothing but descriptions": ((header("n", 1, b"L") + block(b"n")) * 8, "8 headers"),
    "a PAX size that is no number": (pax({"size": "-1"}) + header("s", 0), "its size is '-1'"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_named_by_its_byte_and_what_follows_is_found(damage):
    bad, said = DAMAGED[damage]
    found = walk(A + bad + B + END)
    at, what = one(found)
    assert AT <= at < AT + len(bad) and said in what
    assert [member.name for member in found.members] == ["a", "b"] and found.ended


def test_a_size_beyond_the_file_is_not_believed():
    for beyond in (header("c", 1 << 40), pax({"size": str(10**17)}) + header("c", 0), header("c", 1 << 30, b"x")):
        data = A + beyond + B + END
        # Nobody says how long it should be: it was cut.
        assert (walk(data).members, walk(data).ended) == (walk(A + END).members, False)
        # It is as long as it should be: the header lies.
        found = walk(data, len(data))
        assert [member.name for member in found.members] == ["a", "b"] and found.ended
        assert "more bytes than the tar has" in one(found)[1]


@pytest.mark.parametrize("length", range(0, len(A + B), 100))
def test_a_cut_tar_has_no_end_mark(length):
    assert not walk((A + B + END)[:length]).ended


def test_garbage_in_the_padding_hides_nothing():
    data = A[:-5] + b"dirt!" + B + END
    found = walk(data)
    assert [member.name for member in found.members] == ["a", "b"] and found.ended
    assert one(found) == (AT - 5, "the padding after a is not zero") and not found.faults[0].hides
