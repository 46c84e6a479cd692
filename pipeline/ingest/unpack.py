"""Packed files (gzip, bzip2, xz, zstd), made seekable."""

import bz2
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from typing import IO, Any

import pyarrow as pa

_START = 1024

_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),
}

# What unpackers raise when the bytes are damaged.
DAMAGE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


def unpacked_start(file: IO[bytes]) -> bytes:
    """The first KiB, unpacked if it is packed; empty if that fails."""
    start = file.read(_START)
    opener = _opener(start)
    if opener is None:
        return start
    file.seek(0)
    try:
        with opener(file) as packed:
            return packed.read(_START)
    except DAMAGE:
        return b""


def is_packed(start: bytes) -> bool:
    return _opener(start) is not None


def seekable(file: IO[bytes]) -> IO[bytes]:
    """The file itself, or unpacked into a nameless one that vanishes with its handle. Raises one of DAMAGE."""
    opener = _opener(file.read(6))
    file.seek(0)
    if opener is None:
        return file
    plain = tempfile.TemporaryFile(prefix="ganline-")  # noqa: SIM115 - lives as long as its source
    try:
        with file, opener(file) as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
    except BaseException:
        plain.close()
        raise
    plain.seek(0, io.SEEK_SET)
    return plain


def _opener(start: bytes) -> Any:
    return next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
