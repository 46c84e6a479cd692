"""Images in a zip or a tar. Members are read into memory, never written to disk by their own names."""

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from pipeline.errors import UserError
from pipeline.ingest.invalid import InvalidImage, read_each
from pipeline.ingest.layout import File, Item, arrange, is_hidden

# What the standard library raises when an archive or a member of it is damaged.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    OSError, EOFError, ValueError, NotImplementedError, RuntimeError,
)  # fmt: skip

_BLOCK = 512  # bytes of a tar block
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def open_archive(path: str) -> "ZipSource | TarSource":
    """By content, whatever the name; raises UserError if it is neither, OSError if it cannot be opened."""
    with open(path, "rb"):
        pass
    try:
        # A tar whose last member is a zip looks like a zip as well; no zip looks like a tar.
        if tarfile.is_tarfile(path):
            return TarSource(path)
        if zipfile.is_zipfile(path):
            return ZipSource(path)
    except _DAMAGE as error:
        raise _broken(path, error) from None
    raise UserError(f"{path} is no zip or tar, or a broken one; give a folder or a whole archive")


class ZipSource:
    """A zip's regular files; links, devices and hidden files are passed over."""

    def __init__(self, path: str):
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._items: list[Item] | None = None

    def __reduce__(self):
        return ZipSource, (self.path,)

    def items(self) -> list[Item]:
        if self._items is None:
            self._open()
            files = {
                path: File(member.file_size, f"{member.file_size}-{member.CRC:08x}")
                for path, member in self._members.items()
            }
            self._items = arrange(files, self.path)
        return self._items

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        return read_each(self._read, paths)

    def _read(self, path: str) -> bytes:
        """Raises InvalidImage if the member is damaged."""
        archive = self._open()
        try:
            return archive.read(self._members[path])
        except _DAMAGE as error:
            raise InvalidImage("corrupt", f"damaged in the zip: {error}") from None

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None:
            try:
                archive = zipfile.ZipFile(self.path)
            except _DAMAGE as error:
                raise _broken(self.path, error) from None
            for member in archive.infolist():
                path = _clean(member.filename)
                # Zips from other systems than Unix leave the type at 0.
                kind = stat.S_IFMT(member.external_attr >> 16)
                if member.is_dir() or kind not in (0, stat.S_IFREG) or is_hidden(path):
                    continue
                if member.flag_bits & 1:
                    raise UserError(f"{self.path} is encrypted; unpack it into a folder and give that")
                self._members[path] = member
            self._archive = archive
        return self._archive


class TarSource:
    """A tar's regular files, packed or not; links, devices and hidden files are passed over."""

    def __init__(self, path: str):
        self.path = path
        self._archive: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}
        self._items: list[Item] | None = None

    def __reduce__(self):
        return TarSource, (self.path,)

    def items(self) -> list[Item]:
        if self._items is None:
            self._open()
            # A tar holds no checksum of a member: any change of the tar is a change of all of them.
            whole = os.stat(self.path)
            files = {
                path: File(member.size, f"{whole.st_size}-{whole.st_mtime_ns}-{member.offset_data}")
                for path, member in self._members.items()
            }
            self._items = arrange(files, self.path)
        return self._items

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        return read_each(self._read, paths)

    def _read(self, path: str) -> bytes:
        """Raises InvalidImage if the member is damaged."""
        archive = self._open()
        try:
            stream = archive.extractfile(self._members[path])
            assert stream is not None  # only regular files are listed
            return stream.read()
        except _DAMAGE as error:
            raise InvalidImage("corrupt", f"damaged in the tar: {error}") from None

    def _open(self) -> tarfile.TarFile:
        if self._archive is None:
            try:
                file = _seekable(self.path)
                weakref.finalize(self, file.close)
                archive = tarfile.TarFile(fileobj=file)
                members = archive.getmembers()
                _check_end(archive)
            except _DAMAGE as error:
                raise _broken(self.path, error) from None
            for member in members:
                path = _clean(member.name)
                if member.isreg() and not is_hidden(path):
                    self._members[path] = member
            self._archive = archive
        return self._archive


def _seekable(path: str) -> IO[bytes]:
    """The plain tar: a compressed one is unpacked once into a nameless file that vanishes with its handle."""
    file = open(path, "rb")  # noqa: SIM115 - lives as long as its source
    start = file.read(6)
    file.seek(0)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            plain = tempfile.TemporaryFile(prefix="ganline-")  # noqa: SIM115 - the same
            try:
                with file, opener(file) as packed:
                    shutil.copyfileobj(packed, plain, 1 << 20)
            except BaseException:
                plain.close()
                raise
            plain.seek(0)
            return plain
    return file


def _check_end(archive: tarfile.TarFile) -> None:
    # tarfile takes a damaged header, or none, for the end: then every later image would be lost unnoticed.
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError(f"no member and no end mark at byte {archive.offset}")


def _clean(name: str) -> str:
    """Without `./` and a leading `/`, which say nothing about where a member belongs."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _broken(path: str, error: BaseException) -> UserError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"cannot read {path}: {said}; make or copy it again (unpacking needs room in TMPDIR)")
