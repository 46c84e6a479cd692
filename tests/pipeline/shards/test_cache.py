"""The cache of a node, shared by real processes."""

import errno
import hashlib
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hurry import within

from pipeline.errors import UserError
from pipeline.shards.cache import CacheFull, ShardCache, cache_limit
from pipeline.shards.on_ray import shard_images
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage

SIZE = 4096


class Remote(Storage):
    """A folder that is taken for an object store; each read is noted in a file, so that processes can be counted."""

    is_local = False  # type: ignore[assignment]
    slow = 0.0

    def __reduce__(self):
        return Remote, (self.uri,)

    def read(self, path: str) -> bytes:
        with open(Path(self.uri, "reads"), "a") as file:
            file.write(f"{path}\n")
        time.sleep(self.slow)
        return super().read(path)


def put(storage: Storage, number: int, size: int = SIZE) -> tuple[str, str]:
    """Path and sha256 of a stored file."""
    data = np.random.default_rng(number).bytes(size)
    Storage(storage.uri).write(f"shards/{number}.tar", data)
    return f"shards/{number}.tar", hashlib.sha256(data).hexdigest()


def reads(storage: Storage) -> list[str]:
    return Path(storage.uri, "reads").read_text().split()


@pytest.fixture
def remote(tmp_path) -> Remote:
    return Remote(str(tmp_path / "store"))


@pytest.fixture
def cache(tmp_path) -> ShardCache:
    return ShardCache(tmp_path / "cache", 4 * SIZE)


def copies(cache: ShardCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir() if path.suffix != ".lock"}


def test_a_file_is_fetched_once(remote, cache):
    path, sha = put(remote, 0)
    for fetched in (True, False, False):
        file, was_fetched = cache.open(remote, path, sha)
        assert was_fetched is fetched
        assert hashlib.sha256(file.read()).hexdigest() == sha
        file.close()
    assert reads(remote) == [path]


def test_least_recently_used_goes_first_and_the_limit_holds(remote, cache):
    stored = [put(remote, number) for number in range(6)]
    for number in (0, 1, 2, 3, 0, 4, 5):  # 1 and 2 are those that have not been used for longest
        cache.open(remote, *stored[number])[0].close()
        assert sum((cache.folder / name).stat().st_size for name in copies(cache)) <= cache.limit
    assert copies(cache) == {"0.tar", "3.tar", "4.tar", "5.tar"}


def test_what_is_in_use_stays_and_a_cache_full_of_it_says_so(remote, cache):
    stored = [put(remote, number) for number in range(6)]
    held = [cache.open(remote, *stored[number])[0] for number in range(4)]
    with pytest.raises(
        CacheFull, match=r"no room for 4,096 bytes: 16,384 of its 16,384 are in use; raise GANLINE_CACHE_BYTES"
    ):
        cache.open(remote, *stored[4])
    held[2].close()
    cache.open(remote, *stored[4])[0].close()
    assert copies(cache) == {"0.tar", "1.tar", "3.tar", "4.tar"}
    with pytest.raises(CacheFull):
        cache.open(remote, *put(remote, 7, 5 * SIZE))


def test_what_a_dead_process_left_half_written_makes_room(remote, cache):
    cache.folder.mkdir()
    (cache.folder / "9.tar.abc.part").write_bytes(bytes(3 * SIZE))
    for number in range(2):
        cache.open(remote, *put(remote, number))[0].close()
    assert copies(cache) == {"0.tar", "1.tar"}


def test_damage_on_the_way_is_fetched_again_and_damage_that_stays_is_not_kept(remote, cache, monkeypatch):
    path, sha = put(remote, 0)
    whole, cut = remote.read(path), iter([True])
    monkeypatch.setattr(Remote, "read", lambda self, path: whole[:100] if next(cut, False) else whole)
    file, _ = cache.open(remote, path, sha)
    assert file.read() == whole
    file, _ = cache.open(remote, "shards/1.tar", "0" * 64)
    assert file.read() == whole  # for whoever wants what is left of it
    assert copies(cache) == {"0.tar"}


def test_a_missing_file_is_missing_at_once(remote, cache):
    Storage(remote.uri).write("reads", b"")
    with pytest.raises(FileNotFoundError):
        cache.open(remote, "shards/none.tar", "0" * 64)
    assert len(reads(remote)) == 1


def test_a_full_disk_gives_up_what_it_can_and_then_says_so(remote, cache, monkeypatch):
    # No small disk can be had here: the call that asks it for room answers as one that is full.
    cache.open(remote, *put(remote, 0))[0].close()

    def no_space(descriptor: int, begin: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    said = f"no room in the shard cache {cache.folder}: No space left on device; free some, or set GANLINE_CACHE_BYTES"
    with pytest.raises(UserError, match=said):
        cache.open(remote, *put(remote, 1))
    assert copies(cache) == set()


def _open(remote: Remote, cache: ShardCache, stored: list[tuple[str, str]], answers) -> None:
    remote.slow = 0.02
    found = []
    for path, sha in stored:
        file, _ = cache.open(remote, path, sha)
        found.append(hashlib.sha256(file.read()).hexdigest() == sha)
        file.close()
    answers.put(all(found))


def test_processes_share_what_any_of_them_fetched(remote, cache):
    stored = [put(remote, number) for number in range(4)]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_open, args=(remote, cache, stored, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=within(20)) for _ in processes] == [True] * 4
    for process in processes:
        process.join()
    assert sorted(reads(remote)) == sorted(path for path, _ in stored)


def test_processes_that_fight_for_room_all_get_theirs(remote, tmp_path):
    # Room for five, wanted by three processes that each hold one at a time.
    small = ShardCache(tmp_path / "cache", 5 * SIZE)
    stored = [put(remote, number) for number in range(12)]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [
        context.Process(target=_open, args=(remote, small, stored[start:] + stored[:start], answers))
        for start in (0, 4, 8)
    ]
    for process in processes:
        process.start()
    assert [answers.get(timeout=within(20)) for _ in processes] == [True] * 3
    for process in processes:
        process.join()
    assert sum((small.folder / name).stat().st_size for name in copies(small)) <= small.limit


@pytest.mark.parametrize("text", ["lots", "-1", "0", "1e9"])
def test_a_limit_that_is_no_size_is_told(monkeypatch, text):
    monkeypatch.setenv("GANLINE_CACHE_BYTES", text)
    with pytest.raises(UserError, match=f"GANLINE_CACHE_BYTES is '{text}'; give a number of bytes"):
        cache_limit()


def test_the_limit_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("GANLINE_CACHE_BYTES", raising=False)
    assert cache_limit() == 50 * 2**30
    monkeypatch.setenv("GANLINE_CACHE_BYTES", "1000")
    assert cache_limit() == 1000


@pytest.fixture
def dataset(storage, data, make_tree, tmp_path, without_ray):
    folder = make_tree(tmp_path / "images", {"ant": range(0, 60), "bee": range(60, 120)})
    return shard_images(storage, "pets", data(folder, held_out=0)).dataset


def test_a_reader_lets_go_of_its_own_shards_where_the_cache_is_small(storage, dataset, tmp_path, monkeypatch):
    expected = DatasetReader(storage, dataset, "train").read_all()
    tar, index = (
        max(p.stat().st_size for p in storage.local_path("datasets").rglob(f"*.{s}")) for s in ("tar", "parquet")
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GANLINE_CACHE_BYTES", str(2 * tar + 2 * index))
    reader = DatasetReader(Remote(storage.uri), dataset, "train")
    images, labels = reader.read_all()
    assert np.array_equal(images, expected[0]) and np.array_equal(labels, expected[1])


def test_what_is_looked_ahead_for_is_there_before_it_is_read(storage, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = Remote(storage.uri)
    reader = DatasetReader(remote, dataset, "train")
    reader.look_ahead([2, 0])
    folder = tmp_path / "cache/ganline/shards"
    wanted = {f"{reader.shards[n].sha256}.{suffix}" for n in (0, 2) for suffix in ("tar", "parquet")}
    deadline = time.monotonic() + 10
    while not (folder.exists() and wanted <= {path.name for path in folder.iterdir()}) and time.monotonic() < deadline:
        time.sleep(0.01)
    fetched = len(reads(remote))
    reader.read(np.array([0, 2]), np.array([0, 0]))
    assert len(reads(remote)) == fetched
