"""Storage on local disk: a file is there whole or not at all, whatever kills its writer."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hurry import within

from pipeline.errors import UserError
from pipeline.storage import Entry, Storage, cache_root, default_uri, sha256

WRITER = """
import sys
from pipeline.storage import Storage
storage, size = Storage(sys.argv[1]), int(sys.argv[2])
while True:
    for letter in (b"a", b"b"):
        storage.write("folder/file", letter * size)
"""

# Files past 4 KiB cannot be written, as on a full disk; Python ignores the signal that comes with it.
FAILING_WRITER = """
import resource, sys
from pipeline.storage import Storage
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Storage(sys.argv[1]).write("folder/file", bytes(100_000))
except OSError as error:
    print(type(error).__name__, error.errno)
"""


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path / "root"))


@pytest.fixture(params=["disk", "s3"])
def anywhere(request) -> Storage:
    """What holds of local disk holds of a real S3 server."""
    return (
        request.getfixturevalue("storage") if request.param == "disk" else Storage(request.getfixturevalue("s3_root"))
    )


def leftovers(storage: Storage) -> list[Path]:
    if not storage.is_local:
        return []
    return [path for path in storage.local_path().rglob("*") if path.name.endswith(".tmp")]


def test_what_is_written_is_read(anywhere):
    for data in (b"", b"\x00\xff" * 1000, b"shorter"):
        anywhere.write("a/b/c", data)
        assert anywhere.read("a/b/c") == data
        assert anywhere.exists("a/b/c") and anywhere.size("a/b/c") == len(data)
        assert anywhere.read_range("a/b/c", 1, 5) == data[1:6] if data else anywhere.read_range("a/b/c", 0, 0) == b""
    assert not leftovers(anywhere)
    anywhere.write_json("a.json", {"ü": [1, None], "a": 1.5})
    assert anywhere.read_json("a.json") == {"ü": [1, None], "a": 1.5}
    assert anywhere.read("a.json") == b'{\n "a": 1.5,\n "\\u00fc": [\n  1,\n  null\n ]\n}\n'


def test_json_that_no_json_reader_takes_is_not_written(anywhere):
    with pytest.raises(ValueError, match="JSON"):
        anywhere.write_json("a.json", {"loss": float("nan")})
    assert not anywhere.exists("a.json")


def test_missing_files(anywhere):
    for path in ("nothing", "no/such/folder"):
        assert not anywhere.exists(path)
        assert list(anywhere.list(path)) == []
        with pytest.raises(FileNotFoundError):
            anywhere.read(path)
        with pytest.raises(FileNotFoundError):
            anywhere.read_range(path, 0, 1)
        with pytest.raises(FileNotFoundError):
            anywhere.size(path)
        anywhere.delete(path)
        anywhere.delete_folder(path)
    anywhere.write("folder/file", b"")
    assert not anywhere.exists("folder")  # a folder is no file


def test_listing_is_in_name_order_with_sizes(anywhere):
    for name in ("b", "a10", "a2", "B", "é", "_"):
        anywhere.write(f"folder/{name}", name.encode() * 3)
    anywhere.write("folder/c/deep", b"")
    entries = list(anywhere.list("folder"))
    assert [entry.path for entry in entries] == [
        f"folder/{name}" for name in sorted(("b", "a10", "a2", "B", "é", "_", "c"))
    ]
    assert replace(entries[-1], changed=0) == Entry("folder/é", 6, False)
    assert entries[-1].changed > 0
    assert Entry("folder/c", 0, True) in [replace(entry, changed=0) for entry in entries]


def test_deleting(anywhere):
    anywhere.write("a/b/c", b"1")
    anywhere.write("a/d", b"2")
    anywhere.delete("a/b/c")
    assert not anywhere.exists("a/b/c") and anywhere.exists("a/d")
    anywhere.delete_folder("a")
    assert list(anywhere.list("")) == []


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(storage):
    size = 300_000
    whole = {letter * size for letter in (b"a", b"b")}
    path = storage.local_path("folder/file")
    for pause in (0.01, 0.1, 0.25):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, storage.uri, str(size)])
        try:
            before = path.stat().st_ino if path.exists() else None
            started = time.monotonic()
            while not path.exists() or path.stat().st_ino == before:
                assert time.monotonic() - started < within(30) and writer.poll() is None
                time.sleep(0.005)
            seen, until = set(), time.monotonic() + pause
            while time.monotonic() < until:
                data = storage.read("folder/file")
                assert data in whole
                seen.add(data)
                # What a killed writer left behind is no part of the folder either.
                assert [entry.path for entry in storage.list("folder")] == ["folder/file"]
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert storage.read("folder/file") in whole
    storage.write("folder/file", b"next")
    assert storage.read("folder/file") == b"next"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(storage):
    storage.write("folder/file", b"old")
    failed = subprocess.run(
        [sys.executable, "-c", FAILING_WRITER, storage.uri], capture_output=True, text=True, check=True
    )
    assert failed.stdout.split() == ["OSError", "27"]  # EFBIG
    assert storage.read("folder/file") == b"old"
    assert not leftovers(storage)


def test_writers_of_one_file_do_not_disturb_each_other(storage):
    contents = [bytes([letter]) * 50_000 for letter in range(8)]
    writers = [
        threading.Thread(target=lambda data=data: [storage.write("file", data) for _ in range(5)]) for data in contents
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert storage.read("file") in contents
    assert not leftovers(storage)


def test_what_is_published_is_on_the_disk_before_its_name(storage, monkeypatch):
    # After a power cut a name may stand without its bytes, unless they were flushed before it was given.
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (done.append(name), real(*args))[1])
    storage.write("file", b"x")
    assert done == ["fsync", "replace", "fsync"]  # the bytes, the name, the folder that holds the name


@pytest.mark.parametrize("root", ["/dev/null/x", "{tmp}/file", "{tmp}/file/below"])
def test_a_root_that_cannot_be_written_is_the_users_error(tmp_path, root):
    (tmp_path / "file").write_text("not a folder")
    uri = root.format(tmp=tmp_path)
    with pytest.raises(UserError) as error:
        Storage(uri).prepare()
    said = str(error.value)
    assert said.startswith(f"cannot write to the storage root {uri}: ") and "GANLINE_STORAGE" in said
    assert "\n" not in said


def test_preparing_makes_the_root_and_leaves_it_empty(anywhere):
    anywhere.prepare()
    anywhere.prepare()
    assert list(anywhere.list("")) == []
    assert not anywhere.is_local or list(anywhere.local_path().iterdir()) == []


def test_building_a_storage_touches_nothing(storage):
    assert not Path(storage.uri).exists()


def test_a_storage_travels_to_other_processes(storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = Storage("root")
    storage.write("file", b"x")  # a live connection does not travel, and need not
    for each in (storage, relative):
        copy = pickle.loads(pickle.dumps(each))
        monkeypatch.chdir("/")  # another working directory there
        assert copy.uri == storage.uri == str(tmp_path / "root")
        assert copy.read("file") == b"x"
        monkeypatch.chdir(tmp_path)
    assert repr(storage) == f"Storage({str(tmp_path / 'root')!r})"


def test_home_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage("~/ganline").uri == str(tmp_path / "ganline")


def test_a_file_uri_is_local_disk(tmp_path):
    (tmp_path / "a b").mkdir()
    by_uri, by_path = Storage(f"file://{tmp_path}/a%20b/"), Storage(str(tmp_path / "a b"))
    assert by_uri.is_local and by_uri.local_path("x") == tmp_path / "a b/x"
    by_uri.prepare()
    by_uri.write("x", b"1")
    by_path.write("y", b"2")
    assert by_path.read("x") == b"1" and pickle.loads(pickle.dumps(by_uri)).read("y") == b"2"
    assert [entry.path for entry in by_uri.list("")] == [entry.path for entry in by_path.list("")]


@pytest.mark.parametrize("uri", ["ftp://host/x", "file://host/x", "hf://x/y", "nonsense://", "://"])
def test_a_uri_of_another_kind_is_the_users_error(uri):
    with pytest.raises(
        UserError, match=r"cannot use .* as storage: .*; give a local path or an s3:// or gs:// URI"
    ) as error:
        Storage(uri).prepare()
    assert uri in str(error.value) and "\n" not in str(error.value)


def test_a_file_system_that_is_not_local_has_no_local_path():
    storage = Storage("mock:///bucket")  # pyarrow's own, in memory
    assert not storage.is_local
    with pytest.raises(ValueError, match="mock:///bucket is not on local disk"):
        storage.local_path("x")


def test_the_default_root(monkeypatch):
    monkeypatch.delenv("GANLINE_STORAGE", raising=False)
    assert default_uri() == ".ganline"
    monkeypatch.setenv("GANLINE_STORAGE", "")
    assert default_uri() == ".ganline"
    monkeypatch.setenv("GANLINE_STORAGE", "s3://bucket/x")
    assert default_uri() == "s3://bucket/x"


def test_where_verified_copies_lie(storage, monkeypatch, tmp_path):
    assert cache_root(storage) == storage.local_path("cache")
    remote = Storage("mock:///bucket")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_root(remote) == tmp_path / "cache/ganline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root(remote) == tmp_path / ".cache/ganline"


def test_sha256_is_the_one_that_everybody_has():
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_ranges_are_read_in_the_order_asked_for_and_never_past_the_end(tmp_path):
    storage = Storage(str(tmp_path))
    storage.write("a/b", b"0123456789")
    assert list(storage.read_ranges("a/b", [(7, 2), (0, 3), (10, 0)])) == [b"78", b"012", b""]
    with pytest.raises(ValueError, match="there are no 100 from byte 8 on"):
        storage.read_ranges("a/b", [(0, 1), (8, 100)])
    with pytest.raises(FileNotFoundError):
        list(storage.read_ranges("a/c", [(0, 1)]))


def test_files_go_up_and_come_down_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.storage._COPIED", 1000)
    storage, local = Storage(str(tmp_path / "store")), tmp_path / "local"
    local.write_bytes(os.urandom(12_345))
    storage.upload(local, "a/b")
    assert storage.read("a/b") == local.read_bytes()
    storage.download("a/b", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    assert [entry.path for entry in storage.list("a")] == ["a/b"]
    with pytest.raises(FileNotFoundError):
        storage.download("a/c", tmp_path / "back")
    with pytest.raises(FileNotFoundError):
        storage.upload(tmp_path / "nothing", "a/b")
    assert storage.read("a/b") == local.read_bytes()
