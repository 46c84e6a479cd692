"""Ranges of a store that answers badly come whole, or not at all."""

import pickle

import pytest
from pyarrow import fs

from pipeline import patience
from pipeline.errors import Unavailable
from pipeline.ingest import place
from pipeline.ingest.place import Place
from pipeline.ingest.source import open_source, read_one


@pytest.fixture
def flaky(root, monkeypatch):
    """Makes each range fail so many times: a store whose answers are errors, or short."""
    if not root.uri.startswith("store"):
        pytest.skip("local disk")
    monkeypatch.setattr(patience.time, "sleep", lambda _: None)

    def fail(times: int, *, short: bool) -> None:
        left = {}

        class File:
            def __init__(self, file):
                self.file = file

            def seek(self, at):
                self.file.seek(at)

            def readinto(self, buffer):
                at = self.file.tell()
                if left.setdefault((len(buffer), at), times) > 0:
                    left[len(buffer), at] -= 1
                    if not short:
                        raise OSError("curl error 56: connection reset")
                    return self.file.readinto(memoryview(buffer)[: len(buffer) // 2])
                return self.file.readinto(buffer)

            def size(self):
                return self.file.size()

            def close(self):
                self.file.close()

        opened = fs.SubTreeFileSystem.open_input_file

        class Store:
            def __init__(self, under):
                self.under = under

            def open_input_file(self, path):
                return File(opened(self.under, path))

            def __getattr__(self, name):
                return getattr(self.under, name)

        connected = place.connect

        def connect(uri, use):
            filesystem, path = connected(uri, use)
            return Store(filesystem), path

        monkeypatch.setattr(place, "connect", connect)

    return fail


@pytest.mark.parametrize("short", [True, False])
def test_a_range_that_fails_twice_comes_whole_and_is_logged(root, flaky, short, caplog):
    (root / "tree/a/1").write_bytes(bytes(range(256)) * 40)
    flaky(2, short=short)
    assert read_one(open_source(root.at("tree")), "a/1") == bytes(range(256)) * 40
    assert "attempt 2 of" in caplog.text


@pytest.mark.parametrize("short", [True, False])
def test_a_range_that_keeps_failing_is_unavailable_and_no_bad_image(root, flaky, short):
    (root / "tree/a/1").write_bytes(b"x" * 1000)
    flaky(10**9, short=short)
    with pytest.raises(Unavailable, match=r"cannot read root/tree/a/1: .*; try again later"):
        read_one(open_source(root.at("tree")), "a/1")


def test_a_place_is_pickled_by_its_uri(root):
    (root / "a").write_bytes(b"x")
    found = Place(root.at("a"))
    assert found.start == b"x"
    assert pickle.loads(pickle.dumps(found)).uri == found.uri
    assert len(pickle.dumps(found)) < 500
