import io
import json
import subprocess
import tarfile
import tracemalloc

import numpy as np
import pytest
import webdataset

from pipeline.errors import UserError
from pipeline.ingest import place
from pipeline.ingest.image import ImageRules, decode
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.source import open_source, read_one


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def listed(uri: str, labels: str = "auto") -> dict[str, str | None]:
    return {item.path.rpartition("#")[0]: item.label for item in open_source(uri, labels).items()}


def write_samples(path, start: int, count: int, **extra) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(start, start + count):
            sample = {"__key__": f"{number:06}", "png": b"image %d" % number, "txt": "a caption"}
            writer.write(sample | {name: make(number) for name, make in extra.items()})


def test_arrays_are_images_where_a_sample_has_no_other(root):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with webdataset.TarWriter(str(root / "arrays.tar")) as writer:
        writer.write({"__key__": "drawn", "npy": pixels, "cls": 3})
        writer.write({"__key__": "described", "npy": np.zeros(512, np.float32), "png": b"image", "cls": 4})
    source = open_source(root.at("arrays.tar"))
    assert {item.path.rpartition("#")[0]: item.label for item in source.items()} == {
        "drawn.npy": "3",
        "described.png": "4",
    }
    (drawn, _) = source.items()
    assert np.array_equal(decode(read_one(source, drawn.path), ImageRules(4, 3, "white"), drawn.path).pixels, pixels)


@pytest.mark.parametrize(
    ("extra", "labels", "expected"),
    [
        ({"cls": lambda n: n % 3}, "auto", lambda n: str(n % 3)),
        ({"json": lambda n: {"label": f"c{n % 2}", "kind": n}}, "auto", lambda n: f"c{n % 2}"),
        ({"json": lambda n: {"cls": n % 2}}, "auto", lambda n: str(n % 2)),
        ({"json": lambda n: {"label": "x", "kind": n}}, "column:kind", lambda n: str(n)),
        ({"cls": lambda n: 5, "json": lambda n: {"label": 6}}, "auto", lambda n: "5"),
        ({"cls": lambda n: 5}, "none", lambda n: None),
        ({}, "auto", lambda n: None),
    ],
)
def test_webdatasets_own_tars_give_images_with_labels(root, extra, labels, expected):
    write_samples(root / "wds/train-0.tar", 0, 20, **extra)
    write_samples(root / "wds/more/train-1.tar", 20, 20, **extra)
    (root / "wds/README.md").write_text("notes")
    source = open_source(root.at("wds"), labels)
    items = list(source.items())
    names = [f"train-0.tar/{n:06}.png" for n in range(20)] + [f"more/train-1.tar/{n:06}.png" for n in range(20, 40)]
    assert sorted(item.path.rpartition("#")[0] for item in items) == sorted(names)
    found = dict(zip([item.path for item in items], source.read([item.path for item in items]), strict=True))
    for item in items:
        number = int(item.path.rpartition("#")[0][-10:-4])
        assert (found[item.path], item.label) == (b"image %d" % number, expected(number))
    single = open_source(root.at("wds/train-0.tar"), labels)
    assert [item.label for item in single.items()] == [expected(n) for n in range(20)]


def test_a_sample_with_a_broken_json_names_it(root):
    with tarfile.open(root / "a.tar", "w") as archive:
        add(archive, "1.png", b"x")
        add(archive, "1.json", b"{")
    with pytest.raises(UserError, match=r"1\.json in the tar is no JSON: .*; mend it, or say data.labels=none"):
        list(open_source(root.at("a.tar")).items())
    assert listed(root.at("a.tar"), "none") == {"1.png": None}


def test_folders_in_a_folder_of_tars_are_classes_and_the_tars_are_not(root):
    for name in ("a.tar", "b.tar"):
        with tarfile.open(root / f"tars/{name}", "w") as archive:
            for label in ("x", "y"):
                add(archive, f"{label}/{name}.jpg", b"1")
    assert set(listed(root.at("tars")).values()) == {"x", "y"}


def test_a_folder_that_is_called_like_a_tar(root):
    with tarfile.open(root / "tars/odd.tar/in.tar", "w") as archive:
        add(archive, "deep.tar/1.jpg", b"1")
    source = open_source(root.at("tars"))
    assert [read_one(source, item.path) for item in source.items()] == [b"1"]


@pytest.mark.parametrize("form", ["ustar", "gnu", "posix", "v7", "oldgnu"])
def test_gnu_tars_formats(root, form):
    long = "d" * 60
    names = ["a/1.png", f"a/{long}/2.png", "b/ü.png"] if form not in ("v7",) else ["a/1.png", "b/2.png"]
    for index, name in enumerate(names):
        (root / f"in/{name}").write_bytes(b"%d" % index * 700)
    if form in ("gnu", "posix"):
        names.append(f"b/{'n' * 200}.png")
        (root / f"in/{names[-1]}").write_bytes(b"long")
    command = ["tar", f"--format={form}", "-C", str(root.folder / "in"), "-cf", str(root / "a.tar"), "a", "b"]
    subprocess.run(command, check=True)
    source = open_source(root.at("a.tar"))
    found = {item.path.rpartition("#")[0]: read_one(source, item.path) for item in source.items()}
    assert found == {name: (root / f"in/{name}").read_bytes() for name in names}


def test_a_sparse_member_is_read_whole(root):
    with open(root / "in/1.png", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    subprocess.run(["tar", "-S", "-C", str(root.folder / "in"), "-cf", str(root / "a.tar"), "1.png"], check=True)
    assert (root / "a.tar").stat().st_size < 1 << 18
    source = open_source(root.at("a.tar"))
    (item,) = source.items()
    assert read_one(source, item.path) == (root / "in/1.png").read_bytes()


def test_a_name_that_comes_twice_is_two_items(root):
    with tarfile.open(root / "a.tar", "w") as archive:
        add(archive, "1.png", b"old")
        add(archive, "1.png", b"new")
    source = open_source(root.at("a.tar"))
    assert [read_one(source, item.path) for item in source.items()] == [b"old", b"new"]


def test_a_tar_that_changed_gives_no_other_members_bytes(root):
    with tarfile.open(root / "a.tar", "w") as archive:
        for number in range(5):
            add(archive, f"{number}.png", b"%d" % number * 100)
    source = open_source(root.at("a.tar"))
    paths = [item.path for item in source.items()]
    with tarfile.open(root / "a.tar", "w") as archive:
        for number in range(4):
            add(archive, f"{number + 1}.png", b"%d" % (number + 1) * 100)
    assert [each.reason for each in source.read(paths) if isinstance(each, InvalidImage)] == (
        ["unreadable"] * 4 + ["corrupt"]
    )
    (root / "a.tar").unlink()
    assert {each.reason for each in source.read(paths) if isinstance(each, InvalidImage)} == {"unreadable"}


def test_a_member_that_claims_too_much_is_refused_unread(root):
    with tarfile.open(root / "a.tar", "w") as archive:
        add(archive, "1.png", b"x" * 600)
        add(archive, "2.png", b"y" * 600)
    source = open_source(root.at("a.tar"))
    paths = [item.path for item in source.items()]
    member = tarfile.TarInfo("1.png")
    member.size = 1 << 40
    data = bytearray((root / "a.tar").read_bytes())
    data[:512] = member.tobuf(tarfile.GNU_FORMAT)
    (root / "a.tar").write_bytes(data)
    first, second = source.read(paths)
    assert isinstance(first, InvalidImage) and first.reason == "too_large" and second == b"y" * 600
    with pytest.raises(UserError, match="cannot read"):
        list(source.items())


def header(name: str, size: int, kind: bytes) -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:512]))
    return bytes(block)


@pytest.mark.parametrize(
    "hostile",
    [
        header("1.png", -1024, tarfile.REGTYPE),
        header("1.png", -512, tarfile.GNUTYPE_LONGNAME),
        header("1.png", 1 << 50, tarfile.GNUTYPE_LONGNAME),
        header("1.png", 1 << 50, tarfile.XHDTYPE),
        header("x", 512, tarfile.XHDTYPE) + b"17 size=-1000000\n".ljust(512, b"\0") + header("1", 0, tarfile.REGTYPE),
        (header("x", 512, tarfile.XHDTYPE) + b"12 path=abc\n".ljust(512, b"\0")) * 2000,
    ],
)
def test_a_hostile_header_is_refused_at_once(root, hostile):
    good = header("0.png", 512, tarfile.REGTYPE) + b"x" * 512
    (root / "a.tar").write_bytes(good + hostile + b"x" * 4096 + bytes(1024))
    source = open_source(root.at("a.tar"))
    with pytest.raises(UserError, match=r"cannot read .*a\.tar: .*; make or copy it again") as error:
        list(source.items())
    assert "\n" not in str(error.value)
    first, second = source.read(["0.png#0", "1.png#1024"])
    assert first == b"x" * 512 and isinstance(second, InvalidImage)


def test_a_run_of_neighbours_is_a_few_requests(root, monkeypatch):
    if not root.uri.startswith("store"):
        pytest.skip("local disk")
    with tarfile.open(root / "a.tar", "w") as archive:
        for number in range(2000):
            add(archive, f"{number}.png", b"%d" % number * 500)
    ranges = []
    monkeypatch.setattr(place, "_BLOCK", 1 << 20)
    read = place.whole
    monkeypatch.setattr(place, "whole", lambda file, path, at, n: ranges.append(n) or read(file, path, at, n))
    size = (root / "a.tar").stat().st_size
    source = open_source(root.at("a.tar"))
    ranges.clear()
    paths = [item.path for item in source.items()]
    assert sum(ranges) <= size + (1 << 20) and len(ranges) <= size // (1 << 20) + 3
    ranges.clear()
    assert all(isinstance(each, bytes) for each in source.read(paths[500:1500]))
    assert len(ranges) <= size // (1 << 20) + 1 and sum(ranges) <= size * 0.75


def test_a_long_tar_is_not_held_in_memory(root):
    with tarfile.open(root / "a.tar", "w") as archive:
        for number in range(5000):
            add(archive, f"{number}.png", b"")
    tracemalloc.start()
    try:
        assert sum(1 for _ in open_source(root.at("a.tar"), "none").items()) == 5000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if not root.uri.startswith("store"):  # whose buffer is larger
        assert peak < 1 << 20  # the members of these would take 5 MB


def test_json_labels_name_members_without_their_offset(root):
    with tarfile.open(root / "a.tar", "w") as archive:
        add(archive, "00/1.png", b"x")
    (root / "labels.json").write_text(json.dumps({"labels": [["00/1.png", 3]]}))
    assert listed(root.at("a.tar"), root.at("labels.json")) == {"00/1.png": "3"}
