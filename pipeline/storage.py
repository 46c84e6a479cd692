"""One storage root on local disk, S3 or GCS, through pyarrow.fs.

A file appears whole or not at all: on local disk by write, fsync, rename; an object store publishes an
upload only when it is complete. Paths are relative to the root, with forward slashes.

What an object store fails at and may not fail at again is tried again for a minute; what it says that it
stored or sent is checked by size. The tests run against a real S3 server; GCS takes the same way, which
nobody has run there.
"""

import hashlib
import json
import mmap
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from pyarrow import fs

from pipeline.errors import Unavailable, UserError
from pipeline.location import absolute, connect
from pipeline.object_store import read_ranges, read_whole, upload
from pipeline.patience import Patience, first_line, may_pass
from pipeline.redact import redact

DEFAULT_ROOT = ".ganline"
_UNFINISHED = ".tmp"
_PATIENCE = Patience()
_LITTLE_PATIENCE = Patience(attempts=3, seconds=5.0)
_COPIED = 64 << 20  # bytes at a time
T = TypeVar("T")


def default_uri() -> str:
    """`GANLINE_STORAGE` from the environment, else `.ganline` in the working directory."""
    return os.environ.get("GANLINE_STORAGE") or DEFAULT_ROOT


@dataclass(frozen=True)
class Entry:
    path: str
    size: int
    is_folder: bool
    changed: int = 0  # ns since 1970


class Storage:
    """Cheap to build and picklable: it holds only its URI and connects when it is first used."""

    def __init__(self, uri: str):
        self.uri = absolute(uri)
        self._connection: tuple[fs.FileSystem, str] | None = None

    def __reduce__(self):
        return Storage, (self.uri,)

    def __repr__(self) -> str:
        return f"Storage({self.name!r})"

    @property
    def name(self) -> str:
        """The URI without secrets, for messages."""
        return redact(self.uri)

    @property
    def is_local(self) -> bool:
        return isinstance(self._connect()[0], fs.LocalFileSystem)

    def local_path(self, path: str = "") -> Path:
        """The path on this machine's disk; only where `is_local`."""
        filesystem, base = self._connect()
        if not isinstance(filesystem, fs.LocalFileSystem):
            raise ValueError(f"{self.uri} is not on local disk")
        return Path(base, path)

    def child_uri(self, path: str) -> str:
        """The URI of a path below the root; a query (an S3 endpoint, say) stays at the end."""
        before, mark, query = self.uri.partition("?")
        return f"{before.rstrip('/')}/{path}{mark}{query}"

    def prepare(self) -> None:
        """Creates the root and proves that it can be written; raises UserError where it can not, within a minute."""
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"", _LITTLE_PATIENCE)
            self.delete(probe)
        except OSError as error:
            kind = UserError if self.is_local or not may_pass(error) else Unavailable
            raise kind(
                f"cannot write to the storage root {self.name}: {first_line(error)};"
                " set GANLINE_STORAGE or `storage` to a place that can be written"
            ) from None

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError if there is no such file, OSError if it can not be had whole."""
        return self._call("reading", path, lambda filesystem, place: read_whole(filesystem, place, 0, None))

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset` on. Raises as `read`, and ValueError for bytes past the file's end."""
        return self._call("reading", path, lambda filesystem, place: read_whole(filesystem, place, offset, size))

    def size(self, path: str) -> int:
        """In bytes. Raises FileNotFoundError if there is no such file."""
        info = self._call("looking at", path, lambda filesystem, place: filesystem.get_file_info(place))
        if info.type != fs.FileType.File:
            raise FileNotFoundError(f"{path} is no file in {self.name}")
        return info.size

    def locate(self, path: str) -> tuple[fs.FileSystem, str]:
        """Where pyarrow finds a file, for readers that do not want all of it at once."""
        filesystem, base = self._connect()
        return filesystem, f"{base}/{path}"

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Exactly the bytes of each (offset, size), the file being opened once. Raises as `read_range`."""
        if self.is_local:
            return _read_local(self.local_path(path), ranges)
        return self._call("reading", path, lambda filesystem, place: read_ranges(filesystem, place, ranges))

    def download(self, path: str, local: Path) -> None:
        """Copies a file, however large, to this machine's disk; raises as `read`."""
        size = self.size(path)
        with open(local, "wb") as file:
            for offset in range(0, size, _COPIED):
                file.write(self.read_range(path, offset, min(_COPIED, size - offset)))

    def upload(self, local: Path, path: str) -> None:
        """Publishes a local file, however large, at `path`, replacing what is there."""
        with open(local, "rb") as file:
            if self.is_local:
                with _replacing(self.local_path(path)) as there:
                    shutil.copyfileobj(file, there, _COPIED)
            elif os.path.getsize(local):
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    self.write(path, memoryview(data))
            else:
                self.write(path, b"")

    def read_json(self, path: str) -> Any:
        return json.loads(self.read(path))

    def write(
        self, path: str, data: bytes | memoryview, patience: Patience | None = None, *, durable: bool = True
    ) -> None:
        """Publishes `data` at `path`, replacing what is there.

        What is not `durable` may be cut or gone after a power failure: for what can be made again and is checked.
        """
        if self.is_local:
            with _replacing(self.local_path(path), durable) as file:
                file.write(data)
        else:
            self._call("writing", path, lambda filesystem, place: upload(filesystem, place, data), patience)

    def write_json(self, path: str, value: Any) -> None:
        self.write(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n")

    def exists(self, path: str) -> bool:
        info = self._call("looking at", path, lambda filesystem, place: filesystem.get_file_info(place))
        return info.type == fs.FileType.File

    def list(self, folder: str) -> Iterator[Entry]:
        """Direct children in name order, no unfinished writes; nothing if the folder does not exist."""
        for info in sorted(self._infos(folder), key=lambda info: info.base_name):
            if info.base_name.startswith(".") and info.base_name.endswith(_UNFINISHED):
                continue
            is_folder = info.type == fs.FileType.Directory
            yield Entry(f"{folder}/{info.base_name}", 0 if is_folder else info.size or 0, is_folder, info.mtime_ns or 0)

    def folder_size(self, folder: str) -> int:
        """Bytes of all files in it, and in its folders."""
        return sum(self.folder_size(entry.path) if entry.is_folder else entry.size for entry in self.list(folder))

    def delete(self, path: str) -> None:
        """Deletes a file; nothing happens if it is not there."""
        with suppress(FileNotFoundError):
            self._call("deleting", path, lambda filesystem, place: filesystem.delete_file(place))

    def delete_folder(self, path: str) -> None:
        """Deletes a folder and all in it; nothing happens if it is not there."""
        filesystem, base = self._connect()
        if isinstance(filesystem, fs.LocalFileSystem):
            filesystem.delete_dir_contents(f"{base}/{path}", missing_dir_ok=True)
            with suppress(FileNotFoundError):
                filesystem.delete_dir(f"{base}/{path}")
            return
        # One by one: S3's request that deletes many needs a Content-MD5 on other servers than Amazon's, and
        # Amazon's SDK sends none any more.
        below = self._infos(path, recursive=True)
        for info in below:
            if info.type == fs.FileType.File:
                self.delete(info.path.removeprefix(f"{base}/"))
        folders = [info.path.removeprefix(f"{base}/") for info in below if info.type == fs.FileType.Directory]
        for folder in [*sorted(folders, reverse=True), path]:
            with suppress(FileNotFoundError):
                self._call("deleting", folder, lambda filesystem, place: filesystem.delete_dir(place))

    def _infos(self, folder: str, recursive: bool = False) -> Sequence[fs.FileInfo]:
        def look(filesystem: fs.FileSystem, place: str) -> Sequence[fs.FileInfo]:
            return filesystem.get_file_info(fs.FileSelector(place, allow_not_found=True, recursive=recursive))

        return self._call("listing", folder, look)

    def _call(
        self, doing: str, path: str, act: Callable[[fs.FileSystem, str], T], patience: Patience | None = None
    ) -> T:
        filesystem, base = self._connect()
        if isinstance(filesystem, fs.LocalFileSystem):
            return act(filesystem, f"{base}/{path}")
        return (patience or _PATIENCE).call(f"{doing} {path} in {self.name}", lambda: act(filesystem, f"{base}/{path}"))

    def _connect(self) -> tuple[fs.FileSystem, str]:
        if self._connection is None:
            self._connection = connect(self.uri, "storage")
        return self._connection


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def cache_root(storage: Storage) -> Path:
    """Where verified local copies lie: in a local storage root, else in the user's cache folder."""
    if storage.is_local:
        return storage.local_path("cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ganline").expanduser()


def _read_local(path: Path, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Without the copies that pyarrow makes."""
    with open(path, "rb", buffering=0) as file:
        found = [os.pread(file.fileno(), size, offset) for offset, size in ranges]
    for data, (offset, size) in zip(found, ranges, strict=True):
        if len(data) != size:
            raise ValueError(f"{path} has {os.path.getsize(path)} bytes: there are no {size} from byte {offset} on")
    return found


@contextmanager
def _replacing(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` on disk when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
