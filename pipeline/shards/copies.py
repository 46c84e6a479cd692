"""Files of a dataset as local, sha256-checked files: those of a local storage root, or a cache's copies."""

import hashlib
import os
from io import BufferedReader
from pathlib import Path
from threading import Lock
from typing import BinaryIO, cast

from pipeline.shards.cache import ShardCache, cache_limit
from pipeline.storage import Storage, cache_root


class Copies:
    """Opens files; each is hashed once, until it is changed, is forgotten, or this process ends."""

    def __init__(self, storage: Storage, *, by_content: bool = False):
        """`by_content` names copies so: files that others made share their names."""
        self.storage, self._by_content = storage, by_content
        self._cache = None if storage.is_local else ShardCache(cache_root(storage) / "shards", cache_limit())
        self._sound: dict[str, tuple[int, int, int]] = {}
        self._locks: dict[str, Lock] = {}

    def open(self, path: str, expected: str) -> tuple[BinaryIO, bool]:
        """The file, and whether it is sound; what seems damaged has been fetched, or read, a second time.

        Raises FileNotFoundError where there is none, and what ShardCache raises.
        """
        with self._locks.setdefault(path, Lock()):  # the thread that looks ahead may be at it
            file, fetched = self._open(path, expected)
            stamp = _stamp(file)
            if self._sound.get(path) == stamp:
                return file, True
            sound = _sha256(file) == expected
            if not sound and not fetched:
                file.close()
                if self._cache:
                    self._cache.drop(self._name(path, expected))
                file, _ = self._open(path, expected)
                stamp, sound = _stamp(file), _sha256(file) == expected
            if sound:
                self._sound[path] = stamp
            return file, sound

    def forget(self, path: str) -> None:
        """Has the file hashed anew when it is next opened."""
        self._sound.pop(path, None)

    def _open(self, path: str, expected: str) -> tuple[BinaryIO, bool]:
        if self._cache:
            return self._cache.open(self.storage, path, expected, self._name(path, expected))
        return open(self.storage.local_path(path), "rb"), False

    def _name(self, path: str, expected: str) -> str:
        name = path.rpartition("/")[2]
        return f"{expected}{Path(name).suffix}" if self._by_content else name


def _stamp(file: BinaryIO) -> tuple[int, int, int]:
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    found = hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()
    file.seek(0)
    return found
