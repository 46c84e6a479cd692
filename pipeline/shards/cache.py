"""Local copies of an object store's shards: bounded, shared by the processes of a node, least recently used out first.

The kernel keeps the books, so that nothing has to be tidied up after a process that died: a copy in use is held
by a shared flock on it, one that is being fetched by a lock file of its own, and the making of room by another.
"""

import errno
import fcntl
import hashlib
import os
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import UserError
from pipeline.storage import Storage

LIMIT_VARIABLE = "GANLINE_CACHE_BYTES"
DEFAULT_LIMIT = 50 * 2**30
_PARTIAL, _LOCK = ".part", ".lock"
_LOCKS = 64  # files that wait for each other by chance cost less than a lock file for each


class CacheFull(UserError):
    """No room can be made: what is there is in use."""


def cache_limit() -> int:
    """Bytes that the cache of a node may take. Raises UserError for what is no size."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"{LIMIT_VARIABLE} is {text!r}; give a number of bytes, 50000000000 for instance")
    return int(text)


class ShardCache:
    """Copies in `folder`, of `limit` bytes in all."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit

    def open(self, storage: Storage, path: str, expected: str, name: str | None = None) -> tuple[BinaryIO, bool]:
        """The copy of a stored file, called `name` or as it is there; fetched if it is not here, and whether it was.

        It stays until the file and every map of it are closed. Raises what `storage.read` raises, CacheFull, and
        UserError for a disk that is full.
        What differs from the sha256 `expected` is fetched once more, and then given but not kept.
        """
        name = name or Path(path).name
        self.folder.mkdir(parents=True, exist_ok=True)
        if file := self._held(name):
            return file, False
        with self._locked(name):
            if file := self._held(name):  # another process has fetched it meanwhile
                return file, False
            data = storage.read(path)
            sound = hashlib.sha256(data).hexdigest() == expected
            if not sound:
                data = storage.read(path)
                sound = hashlib.sha256(data).hexdigest() == expected
            file = self._store(name, data)
            if not sound:
                self.drop(name)
            return file, True

    def drop(self, name: str) -> None:
        """Forgets a copy. Who has it open keeps it."""
        (self.folder / name).unlink(missing_ok=True)

    def _held(self, name: str) -> BinaryIO | None:
        path = self.folder / name
        with suppress(FileNotFoundError):
            file = open(path, "rb")  # noqa: SIM115 - the caller closes it
            fcntl.flock(file, fcntl.LOCK_SH)
            found = os.fstat(file.fileno())
            if found.st_nlink:  # not taken away between the two
                with suppress(OSError):  # when it was last used: atime, whatever the disk is mounted with
                    os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
                return file
            file.close()
        return None

    def _store(self, name: str, data: bytes) -> BinaryIO:
        """Writes a copy and returns it, open and held."""
        partial = self.folder / f"{name}.{uuid.uuid4().hex}{_PARTIAL}"
        file = open(partial, "w+b")  # noqa: SIM115 - the caller closes it
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._reserve(file, len(data))
            file.write(data)
            file.flush()
            os.replace(partial, self.folder / name)
            fcntl.flock(file, fcntl.LOCK_SH)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            file.close()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"no room in the shard cache {self.folder}: {error.strerror};"
                    f" free some, or set {LIMIT_VARIABLE} to what the disk can take"
                ) from None
            raise
        file.seek(0)
        return file

    def _reserve(self, file: BinaryIO, size: int) -> None:
        """Gives the file its size, once there is room for it in the limit and on the disk."""
        with open(self.folder / f"room{_LOCK}", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._make_room(self.limit - size, size)
            while size:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                    return
                except OSError as error:
                    # Others fill the disk too: give up what can be given, down to nothing.
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._evict_one():
                        raise

    def _make_room(self, room: int, size: int) -> None:
        while (taken := sum(entry.st_size for entry, _ in self._entries())) > room:
            if not self._evict_one():
                raise CacheFull(
                    f"the shard cache {self.folder} has no room for {size:,} bytes: {taken:,} of its {self.limit:,}"
                    f" are in use; raise {LIMIT_VARIABLE}"
                )

    def _entries(self) -> list[tuple[os.stat_result, Path]]:
        entries = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # it has just got its name, or lost it
                if path.suffix != _LOCK:
                    entries.append((path.stat(), path))
        return entries

    def _evict_one(self) -> bool:
        """Deletes the copy that has not been used for longest, of those that nobody uses; or what the dead left."""
        for _, path in sorted(self._entries(), key=lambda entry: entry[0].st_atime_ns):
            with suppress(BlockingIOError, FileNotFoundError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                return True
        return False

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One at a time on this node, threads of one process among them."""
        with open(self.folder / f"{zlib.crc32(name.encode()) % _LOCKS}{_LOCK}", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
