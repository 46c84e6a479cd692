import io
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import UserError
from pipeline.ingest.image import ImageRules, InvalidImage, decode
from pipeline.ingest.source import open_source, read_one

TREE = {
    "cat/1.png": b"one" * 1000,
    "cat/deep/er/2.png": b"two" * 1000,
    "dog/1.png": b"three" * 1000,
    "dog/no-image.txt": b"text",
    "émile/ü 3.jpg": b"",
}
HIDDEN = {".DS_Store": b"x", "cat/._1.png": b"x", ".git/a.png": b"x", "__MACOSX/cat/1.png": b"x"}
KINDS = ["folder", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"]


def build(at: Path, kind: str, files: dict[str, bytes]) -> str:
    folder = at / "tree"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if kind == "folder":
        return str(folder)
    path = at / f"tree.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in reversed(files):
                archive.write(folder / name, name)
    else:
        packed = kind.removeprefix("tar.zst")[4:]
        with tarfile.open(path, f"w:{packed}") as archive:  # type: ignore[call-overload]
            archive.add(folder, ".")  # as `tar -C tree .` does: names begin with ./
        if kind == "tar.zst":
            path.write_bytes(pa.Codec("zstd").compress(path.read_bytes(), asbytes=True))
    shutil.rmtree(folder)
    return str(path)


def plain(path: str) -> str:
    """Without a tar's offset."""
    return path.partition("#")[0]


def listed(source: str) -> dict[str, str | None]:
    return {plain(item.path): item.label for item in open_source(source).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tree_gives_the_same_items_and_bytes(root, kind):
    build(root.folder, kind, TREE | HIDDEN)
    source = open_source(root.at("tree" if kind == "folder" else f"tree.{kind}"))
    items = list(source.items())
    assert all(item.stamp for item in items)
    assert len({item.path for item in items}) == len(items)
    found = {plain(item.path): (item.label, item.size) for item in items}
    assert found == {path: (path.split("/")[0], len(data)) for path, data in TREE.items()}
    data = source.read([item.path for item in items])
    assert {plain(item.path): each for item, each in zip(items, data, strict=True)} == TREE
    for item in reversed(items):  # no order is wrong
        assert read_one(source, item.path) == TREE[plain(item.path)]
    assert list(source.items()) == items


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_copy_is_small_and_equal_and_reads_by_itself(root, kind):
    build(root.folder, kind, TREE)
    source = open_source(root.at("tree" if kind == "folder" else f"tree.{kind}"), "none")
    paths = {plain(item.path): item.path for item in source.items()}
    read_one(source, paths["cat/1.png"])
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000  # no listing and no handle
    copy = pickle.loads(pickled)
    assert copy == source and hash(copy) == hash(source)
    assert copy != open_source(root.at("tree" if kind == "folder" else f"tree.{kind}"))
    del source
    assert read_one(copy, paths["dog/1.png"]) == TREE["dog/1.png"]
    assert {item.label for item in copy.items()} == {None}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_items_are_read_while_they_are_listed(root, kind):
    build(root.folder, kind, TREE)
    source = open_source(root.at(f"tree.{kind}"), "none")
    first, read = None, {}
    for item in source.items():
        read[plain(item.path)] = read_one(source, item.path)
        first = first or item.path
        assert read_one(source, first) == TREE[plain(first)]
    assert read == TREE


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_source_that_changes_below_a_copy_is_seen(root, kind):
    build(root.folder, kind, TREE)
    source = open_source(root.at(f"tree.{kind}"))
    before = list(source.items())
    (root / f"tree.{kind}").unlink()
    build(root.folder, kind, {"fish/1.png": b"four" * 1000, "newt/1.png": b"five" * 1000})
    assert {item.label for item in source.items()} == {"fish", "newt"}
    for found in source.read([item.path for item in before]):
        assert isinstance(found, InvalidImage)


def test_a_relative_path_means_the_same_elsewhere(tmp_path, monkeypatch):
    build(tmp_path, "zip", TREE)
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(open_source("tree.zip"))
    monkeypatch.chdir("/")
    assert read_one(pickle.loads(pickled), "cat/1.png") == TREE["cat/1.png"]


def test_a_packed_tar_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = build(tmp_path, "tar.gz", TREE)
    source = open_source(path)
    read_one(source, next(iter(source.items())).path)
    assert os.listdir(tmp_path) == ["tree.tar.gz"]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["a/1", "b/1"], ["a", "b"]),
        (["wrap/a/1", "wrap/b/1"], ["a", "b"]),
        (["wrap/er/a/1", "wrap/er/b/1"], ["a", "b"]),
        (["wrap/a/x/1", "wrap/b/y/1", ".hidden/1"], ["a", "b"]),
        (["a/1", "b/1", "list.txt"], [None, None, None]),
        (["wrap/a/1", "wrap/b/1", "wrap/list.txt"], [None, None, None]),
        (["wrap/a/1", "wrap/b/1", "list.txt"], [None, None, None]),
        (["a/1", "a/2"], [None, None]),
        (["a/deep/1", "a/deep/2"], [None, None]),
        (["1", "2"], [None, None]),
        (["only/one/file"], [None]),
    ],
)
def test_labels(tmp_path, kind, paths, labels):
    source = build(tmp_path, kind, dict.fromkeys(paths, b"x"))
    kept = sorted(path for path in paths if not path.startswith("."))
    assert listed(source) == dict(zip(kept, labels, strict=True))


def test_archives_are_known_by_content(tmp_path):
    shutil.move(build(tmp_path, "tar.gz", TREE), tmp_path / "a.zip")
    shutil.move(build(tmp_path, "zip", TREE), tmp_path / "b.tar")
    assert listed(str(tmp_path / "a.zip")) == listed(str(tmp_path / "b.tar"))


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("x", "y")
    assert set(listed(build(tmp_path, "tar", {"a/1": b"1", "b/z.zip": inner.getvalue()}))) == {
        "a/1",
        "b/z.zip",
    }


def test_links_and_devices_in_archives_are_passed_over(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in [("a/s", tarfile.SYMTYPE), ("a/h", tarfile.LNKTYPE), ("a/d", tarfile.CHRTYPE)]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret")
            archive.addfile(member)
        for name in ("a/1", "b/1", "/abs/1", "../up/1"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert set(listed(str(tmp_path / "a.tar"))) == {"a/1", "b/1", "abs/1"}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("a/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(tmp_path / "secret"))
        archive.writestr("a/1", "x")
    assert set(listed(str(tmp_path / "a.zip"))) == {"a/1"}


def test_linked_folders_are_followed_once_and_never_for_ever(tmp_path):
    elsewhere = build(tmp_path / "elsewhere", "folder", {"1": b"x"})
    root = Path(build(tmp_path, "folder", {"cat/1": b"x", "dog/1": b"x"}))
    (root / "cat" / "up").symlink_to(root)
    (root / "again").symlink_to(root / "cat")  # whatever a link's name, the real folder's wins
    (root / "zoo").symlink_to(root / "dog")
    (root / "self").symlink_to(root / "self")
    (root / "nowhere").symlink_to(root / "nothing")
    (root / "bird").symlink_to(elsewhere)
    os.mkfifo(root / "pipe")
    assert listed(str(root)) == {"cat/1": "cat", "dog/1": "dog", "bird/1": "bird"}


def test_a_file_that_went_away_is_one_invalid_image(tmp_path):
    source = open_source(build(tmp_path, "folder", TREE))
    (tmp_path / "tree/cat/1.png").unlink()
    with pytest.raises(InvalidImage) as caught:
        read_one(source, "cat/1.png")
    assert caught.value.reason == "unreadable"
    assert pickle.loads(pickle.dumps(caught.value)).reason == "unreadable"  # as a Ray task's error must


def test_a_damaged_zip_member_is_one_invalid_image(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1", b"payload-one")
        archive.writestr("b/1", b"payload-two")
    path.write_bytes(path.read_bytes().replace(b"payload-one", b"payload-0ne"))
    source = open_source(str(path))
    with pytest.raises(InvalidImage, match="corrupt"):
        read_one(source, "a/1")
    assert read_one(source, "b/1") == b"payload-two"


def problem(source: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        list(open_source(str(source)).items())
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    return message


def test_what_cannot_be_a_source_says_so_in_one_line(tmp_path):
    assert "no source" in problem(tmp_path / "missing")
    assert "no files" in problem(tmp_path)
    (tmp_path / "note.zip").write_text("no archive")
    assert "is no zip, tar, Parquet" in problem(tmp_path / "note.zip")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    assert "no files" in problem(tmp_path / "empty.tar")
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / os.fsdecode(b"\xff.png")).touch()
    assert "UTF-8" in problem(odd)


def test_an_encrypted_zip_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1", "x")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "encrypted" in problem(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_cut_archive_is_refused(tmp_path, kind, kept):
    path = Path(build(tmp_path, kind, TREE))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    problem(path)


def test_a_tar_cut_or_garbled_anywhere_is_refused(tmp_path):
    path = Path(build(tmp_path, "tar", TREE))
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        starts = [member.offset for member in archive.getmembers()]
        end = archive.offset
    for cut in [*starts, *(start + 100 for start in starts), *(start + 700 for start in starts), end]:
        path.write_bytes(data[:cut])
        problem(path)
    for start in starts:
        path.write_bytes(data[:start] + b"garbled!" * 64 + data[start + 512 :])
        problem(path)


def test_mnist5k():
    source = open_source("mnist5k")
    items = list(source.items())
    assert len(items) == 5000
    assert items == sorted(items, key=lambda item: item.path)
    labels = [item.label for item in items]
    assert {label: labels.count(label) for label in labels} == {str(digit): 500 for digit in range(10)}
    assert sorted(item.path[2:] for item in items) == [f"{index:04}" for index in range(5000)]
    assert all(item.path == f"{item.label}/{item.path[2:]}" for item in items)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    data = read_one(copy, items[1234].path)
    assert data.startswith(b"P5\n28 28\n255\n")
    assert len(data) == items[1234].size == 13 + 784
    pixels = decode(data, ImageRules(28, 1, "white")).pixels
    assert pixels.tobytes() == data[13:]
    assert pixels.max() > 200
    assert {item.label for item in open_source("mnist5k", "none").items()} == {None}


def test_stacked_mnist():
    """Each channel is one of mnist5k's digits, the label says which; the same forever."""
    source = open_source("stacked_mnist")
    items = list(source.items())
    assert [item.path for item in items] == [f"{number:05}" for number in range(64_000)]
    assert [item.label for item in items[:4]] == ["863", "950", "097", "738"]
    assert len({item.label for item in items}) == 1000
    digits = open_source("mnist5k")
    paths = [item.path for item in digits.items()]
    shown = {data[13:]: path[0] for path, data in zip(paths, digits.read(paths), strict=True)}
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    some = [items[number] for number in (3, 0, 63_999)]
    for item, data in zip(some, copy.read([item.path for item in some]), strict=True):
        assert len(data) == item.size
        pixels = decode(data, ImageRules(28, 3, "white")).pixels
        assert "".join(shown[pixels[:, :, channel].tobytes()] for channel in range(3)) == item.label
    assert {item.label for item in open_source("stacked_mnist", "none").items()} == {None}
