"""Where a source lies, on local disk or an object store, and what a look at it shows."""

import errno
import io
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import IO, Any, TypeVar

from pyarrow import fs

from pipeline.errors import Unavailable, UserError
from pipeline.ingest.item import MAX_BYTES, Item
from pipeline.ingest.listing import walk_local, walk_remote
from pipeline.ingest.unpack import unpacked_start
from pipeline.location import absolute, connect
from pipeline.object_store import whole
from pipeline.patience import Patience, first_line
from pipeline.redact import redact

_BLOCK = 4 << 20  # bytes that one request to an object store asks for, at least
_LOOKED_AT = 1000  # files of a folder that tell what it holds
_NOTES = (".md", ".txt", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".html", ".sha256", ".md5")

_T = TypeVar("_T")


class Place:
    """A file or folder by its path or URI. Picklable; paths given to its methods are the file system's own."""

    def __init__(self, uri: str):
        self.uri = absolute(uri)

    def __reduce__(self):
        return Place, (self.uri,)

    def __str__(self) -> str:
        return redact(self.uri)

    @cached_property
    def _connection(self) -> tuple[fs.FileSystem, str]:
        return connect(self.uri, "a source")

    @property
    def filesystem(self) -> fs.FileSystem:
        return self._connection[0]

    @property
    def path(self) -> str:
        return self._connection[1]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @cached_property
    def info(self) -> fs.FileInfo:
        """Raises UserError if the place may not be looked at."""
        try:
            return self.filesystem.get_file_info(self.path or "/")
        except OSError as error:
            raise self.refuse(error) from None

    @property
    def is_folder(self) -> bool:
        return self.info.type == fs.FileType.Directory

    @cached_property
    def folder(self) -> str:
        """The folder itself, or the one that the file lies in."""
        return self.path if self.is_folder else posixpath.dirname(self.path)

    @cached_property
    def names(self) -> list[str]:
        """The file's name, or the paths below the folder of its first thousand files."""
        if self.is_folder:
            return [item.path for item in islice(self.walk(), _LOOKED_AT)]
        return [posixpath.basename(self.path)]

    @cached_property
    def start(self) -> bytes:
        """The file's first KiB, unpacked if it is packed; nothing of a folder."""
        if self.is_folder:
            return b""
        try:
            with self.open() as file:
                return unpacked_start(file)
        except OSError as error:
            raise self.refuse(error) from None

    def join(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def files(self, wanted: Callable[[str], object]) -> list[Item]:
        """The file, or the `wanted` ones below the folder, by path; not for what may be a hundred million."""
        if self.is_folder:
            return sorted((item for item in self.walk() if wanted(item.path)), key=lambda item: item.path)
        return [Item(self.names[0], None, self.info.size, self.stamp())]

    def holds(self, wanted: Callable[[str], object]) -> bool:
        """Whether the folder's files are `wanted` ones, as far as a look shows; notes and lists may lie beside them."""
        others = [name for name in self.names if not wanted(name)]
        notes = all(name.lower().endswith(_NOTES) or "." not in posixpath.basename(name) for name in others)
        return notes and len(others) < len(self.names)

    def walk(self) -> Iterator[Item]:
        """Every regular file below the folder that is not hidden, without a label; raises UserError."""
        try:
            yield from walk_local(self.path) if self.is_local else walk_remote(self.filesystem, self.path)
        except OSError as error:
            raise self.refuse(error) from None

    def stamp(self, path: str | None = None) -> str:
        """Changes when the file does; empty if there is none."""
        path = self.path if path is None else path
        if self.is_local:
            try:
                status = os.stat(path)
            except OSError:
                return ""
            return f"{status.st_size}-{status.st_mtime_ns}" if stat.S_ISREG(status.st_mode) else ""
        info = self.filesystem.get_file_info(path)
        return f"{info.size}-{info.mtime_ns}" if info.type == fs.FileType.File else ""

    def open(self, path: str | None = None) -> IO[bytes]:
        """Seekable, and quick for many small reads that go forward.

        Raises OSError on opening; later an object store that does not answer is Unavailable.
        """
        path = self.path if path is None else path
        if self.is_local:
            return open(path, "rb")
        return io.BufferedReader(_Remote(self.filesystem, path), _BLOCK)

    def read(self, path: str) -> bytes:
        """A whole file. Raises FileNotFoundError, PermissionError, another OSError of the disk (EFBIG: larger than
        MAX_BYTES), Unavailable."""
        if self.is_local:
            with open(path, "rb", buffering=0) as file:
                _check_size(os.fstat(file.fileno()).st_size)
                return file.readall()
        with _Remote(self.filesystem, path) as remote:
            _check_size(remote.size)
            return remote.read(remote.size)

    def refuse(self, error: BaseException) -> UserError:
        """What to tell of an error that keeps the whole source from being read."""
        said = (getattr(error, "strerror", None) or first_line(error)).split("\n")[0]
        if self.is_local:
            return UserError(f"cannot read {getattr(error, 'filename', None) or self}: {said}; make it readable")
        kind = UserError if isinstance(error, FileNotFoundError) or _is_denied(error) else Unavailable
        return kind(f"cannot read {self}: {said}; check the address and the credentials in the environment")


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"{size} bytes, which no image needs")


def _is_denied(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error)


class _Remote(io.RawIOBase):
    """An object, read by range: each range whole, or Unavailable."""

    def __init__(self, filesystem: fs.FileSystem, path: str):
        self._path = path
        self._file: Any = _tried(lambda: filesystem.open_input_file(path), path)
        self.size: int = self._file.size()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(min(len(buffer), self.size - self._at), 0)
        buffer[:wanted] = _tried(lambda: whole(self._file, self._path, self._at, wanted), self._path)
        self._at += wanted
        return wanted

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _tried(work: Callable[[], _T], path: str) -> _T:
    """Raises FileNotFoundError, PermissionError, and Unavailable for what is still not there after a while."""
    try:
        return Patience().call(f"reading {path}", work)
    except FileNotFoundError:
        raise
    except OSError as error:
        if _is_denied(error):
            raise PermissionError(errno.EACCES, "access denied") from None
        raise Unavailable(f"cannot read {path}: {first_line(error)}; try again later") from None
