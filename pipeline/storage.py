"""One storage root on local disk, S3 or GCS, through pyarrow.fs.

A file appears whole or not at all: on local disk by write, fsync, rename; an object store publishes an
upload only when it is complete. Paths are relative to the root, with forward slashes.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from pipeline.errors import UserError

DEFAULT_ROOT = ".ganline"
_UNFINISHED = ".tmp"


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
        self.uri = uri if "://" in uri else str(Path(uri).expanduser().resolve())
        self._connection: tuple[fs.FileSystem, str] | None = None

    def __reduce__(self):
        return Storage, (self.uri,)

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

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
        """Creates the root and proves that it can be written; raises UserError where it can not."""
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"")
            self.delete(probe)
        except OSError as error:
            raise UserError(
                f"cannot write to the storage root {self.uri}: {_first_line(error)};"
                " set GANLINE_STORAGE or `storage` to a place that can be written"
            ) from None

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError if there is no such file."""
        filesystem, base = self._connect()
        with filesystem.open_input_stream(f"{base}/{path}") as stream:
            return stream.read()

    def read_json(self, path: str) -> Any:
        return json.loads(self.read(path))

    def write(self, path: str, data: bytes) -> None:
        """Publishes `data` at `path`, replacing what is there."""
        filesystem, base = self._connect()
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_local(Path(base, path), data)
        else:
            with filesystem.open_output_stream(f"{base}/{path}") as stream:
                stream.write(data)

    def write_json(self, path: str, value: Any) -> None:
        self.write(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n")

    def exists(self, path: str) -> bool:
        filesystem, base = self._connect()
        return filesystem.get_file_info(f"{base}/{path}").type == fs.FileType.File

    def list(self, folder: str) -> Iterator[Entry]:
        """Direct children in name order, no unfinished writes; nothing if the folder does not exist."""
        filesystem, base = self._connect()
        selector = fs.FileSelector(f"{base}/{folder}", allow_not_found=True)
        for info in sorted(filesystem.get_file_info(selector), key=lambda info: info.base_name):
            if info.base_name.startswith(".") and info.base_name.endswith(_UNFINISHED):
                continue
            is_folder = info.type == fs.FileType.Directory
            yield Entry(f"{folder}/{info.base_name}", 0 if is_folder else info.size or 0, is_folder, info.mtime_ns or 0)

    def delete(self, path: str) -> None:
        """Deletes a file; nothing happens if it is not there."""
        filesystem, base = self._connect()
        with suppress(FileNotFoundError):
            filesystem.delete_file(f"{base}/{path}")

    def delete_folder(self, path: str) -> None:
        """Deletes a folder and all in it; nothing happens if it is not there."""
        filesystem, base = self._connect()
        filesystem.delete_dir_contents(f"{base}/{path}", missing_dir_ok=True)
        with suppress(FileNotFoundError):
            filesystem.delete_dir(f"{base}/{path}")

    def _connect(self) -> tuple[fs.FileSystem, str]:
        if self._connection is None:
            if "://" not in self.uri:
                self._connection = fs.LocalFileSystem(), self.uri
            else:
                try:
                    filesystem, base = fs.FileSystem.from_uri(self.uri)
                except (OSError, ValueError, ImportError) as error:
                    raise UserError(
                        f"cannot use {self.uri} as storage: {_first_line(error)};"
                        " give a local path or an s3:// or gs:// URI"
                    ) from None
                self._connection = filesystem, base.rstrip("/")
        return self._connection


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def cache_root(storage: Storage) -> Path:
    """Where verified local copies lie: in a local storage root, else in the user's cache folder."""
    if storage.is_local:
        return storage.local_path("cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ganline").expanduser()


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
