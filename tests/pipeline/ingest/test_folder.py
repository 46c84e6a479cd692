import io
import os
import shutil
import tarfile
from itertools import pairwise

import pytest
from pyarrow import fs

from pipeline.errors import UserError
from pipeline.ingest import listing
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.source import open_source, read_one

TREE = {f"{label}/{index:03}.png": f"{label}{index}".encode() for label in ("ant", "bee") for index in range(60)}


def write(root, files=TREE):
    for name, data in files.items():
        (root / f"tree/{name}").write_bytes(data)
    return root.at("tree")


def test_items_come_folder_by_folder_with_sizes_and_stamps_that_change(root):
    source = open_source(
        write(root, {**TREE, "wasp/deep/er/1": b"w", ".hidden/x": b"", "ant/.x": b"", "wasp/._1": b""})
    )
    items = list(source.items())
    assert {item.path: item.label for item in items} == {
        path: path.split("/")[0] for path in {**TREE, "wasp/deep/er/1": b"w"}
    }
    folders = [item.path.rpartition("/")[0] for item in items]
    assert sum(a != b for a, b in pairwise(folders)) == 2  # each in one run
    assert all(item.size == len(TREE.get(item.path, b"w")) for item in items)
    assert list(source.items()) == items
    changed = root / "tree/ant/000.png"
    changed.write_bytes(b"ant9")
    os.utime(changed, ns=(1, 1))
    now = dict(zip([item.path for item in items], source.items(), strict=True))
    assert [item.path for item in items if now[item.path] != item] == ["ant/000.png"]


def test_many_files_are_read_in_the_order_given(root):
    source = open_source(write(root))
    paths = sorted(TREE, key=lambda path: path[::-1])
    assert list(source.read(paths)) == [TREE[path] for path in paths]
    assert next(source.read(paths)) == TREE[paths[0]]  # and who stops early stops


def test_a_file_that_is_gone_is_one_invalid_image(root):
    source = open_source(write(root))
    (root / "tree/ant/001.png").unlink()
    first, gone, last = source.read(["ant/000.png", "ant/001.png", "ant/002.png"])
    assert (first, last) == (b"ant0", b"ant2")
    assert isinstance(gone, InvalidImage) and gone.reason == "unreadable"


def test_a_huge_file_is_refused_unread(root):
    write(root)
    with open(root / "tree/ant/huge.png", "wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(InvalidImage, match="too_large"):
        read_one(open_source(root.at("tree")), "ant/huge.png")


def test_an_empty_or_missing_folder_says_so(root):
    (root / "tree/x").touch()
    (root / "tree/x").unlink()
    with pytest.raises(UserError, match=r"no files in .*tree; put images in it"):
        next(iter(open_source(root.at("tree")).items()))
    with pytest.raises(UserError, match=r"no source .*nothing; give a folder, zip"):
        open_source(root.at("nothing"))


def test_what_lies_beside_images_does_not_make_a_folder_something_else(root):
    write(root, {**TREE, "ant/a.tar": b"no tar", "ant/b.parquet": b"", "ant/notes.txt": b""})
    assert len(list(open_source(root.at("tree")).items())) == len(TREE) + 3


def test_a_uri_without_a_store_behind_it_is_told_in_one_line():
    for uri in ("https://host/x", "nonsense://x", "hf://a/b"):
        with pytest.raises(UserError, match=r"cannot use .* as a source: .*; give a local path or an s3://") as error:
            open_source(uri)
        assert "\n" not in str(error.value)


def test_no_key_of_a_uri_is_shown():
    with pytest.raises(UserError) as error:
        open_source("s3x://KEY:SECRET%2Fx@bucket/x")
    assert "SECRET" not in str(error.value) and "bucket/x" in str(error.value)


def test_a_folder_that_may_not_be_listed_says_so(root, monkeypatch):
    write(root)
    denied = PermissionError(13, "Permission denied", str(root.folder / "tree/ant"))
    source = open_source(root.at("tree"))  # root may list everything, so the system's refusal is put in its mouth
    if source.place.is_local:
        monkeypatch.setattr(listing, "_LOCAL", _Denying(denied))
        monkeypatch.setattr(os, "scandir", _Denying(denied).get_file_info)
    else:
        source.place.__dict__["_connection"] = (_Denying(denied), source.place.path)
    with pytest.raises(UserError, match=r"cannot read .*: Permission denied; (make it readable|check the address and)"):
        list(source.items())


def test_names_that_are_not_utf8_trouble_nobody_who_does_not_want_them(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x.png"), io.BytesIO())
    (tmp_path / "z").mkdir()
    shutil.copy(tmp_path / "0.tar", tmp_path / "z/1.tar")
    for name in (b"r\xe9sum\xe9.txt", b".hidden\xff"):
        open(os.fsencode(tmp_path) + b"/" + name, "w").close()
    assert [item.path.partition("#")[0] for item in open_source(str(tmp_path)).items()] == [
        "0.tar/x.png",
        "z/1.tar/x.png",
    ]


def test_both_ways_to_list_a_folder_find_the_same(tmp_path):
    for name in ("b.png", "a.png", "folder/c.png", ".hidden/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "linked").symlink_to("folder")
    os.mkfifo(tmp_path / "fifo")
    quick = list(listing.walk_local(str(tmp_path)))
    assert [item.path for item in quick] == ["a.png", "b.png", "link.png", "folder/c.png"]
    open(os.fsencode(tmp_path) + b"/.\xff", "w").close()
    assert list(listing.walk_local(str(tmp_path))) == quick


class _Denying:
    def __init__(self, error):
        self.error = error

    def get_file_info(self, _):
        raise self.error


def test_spaces_and_odd_names(root):
    names = {"a b/ü 1.png": b"1", "a b/100%.png": b"2", "c#d/e?f.png": b"3"}
    source = open_source(write(root, names))
    assert {item.path: read_one(source, item.path) for item in source.items()} == names


def test_the_store_of_these_tests_is_no_local_one(root):
    store = open_source(write(root)).place.filesystem
    assert isinstance(store, fs.SubTreeFileSystem if root.uri.startswith("store") else fs.LocalFileSystem)
