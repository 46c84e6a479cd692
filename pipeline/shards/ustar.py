"""Tar headers as tarfile writes them in its ustar format, without its fifty microseconds a member."""

import tarfile
from functools import cache, lru_cache

BLOCK = tarfile.BLOCKSIZE
_SIZE, _CHECKSUM = slice(124, 135), slice(148, 154)  # where a header holds them, in octal


def member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, data and padding of a read-only file of nobody at time 0; names have at most 100 ASCII bytes."""
    return header(name, len(data)), data, bytes(-len(data) % BLOCK)


def header(name: str, size: int) -> bytes:
    """512 bytes."""
    before, after, checksum = _nameless(size)
    written = name.encode("ascii")
    return b"".join((written, before[len(written) :], b"%06o" % (checksum + sum(written)), after))


def end(size: int) -> bytes:
    """What follows `size` bytes of members."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


@lru_cache(maxsize=1024)
def _nameless(size: int) -> tuple[bytes, bytes, int]:
    """The header of a file without a name: what is before its checksum and after it, and the checksum."""
    blank, checksum = _blank()
    digits = b"%011o" % size
    before = blank[: _SIZE.start] + digits + blank[_SIZE.stop : _CHECKSUM.start]
    return before, blank[_CHECKSUM.stop :], checksum + sum(digits) - sum(b"0" * 11)


@cache
def _blank() -> tuple[bytes, int]:
    """The header of an empty file without a name, and its checksum."""
    nobody = tarfile.TarInfo("")
    nobody.mode, nobody.mtime = 0o444, 0
    made = nobody.tobuf(tarfile.USTAR_FORMAT)
    return made, int(made[_CHECKSUM], 8)
