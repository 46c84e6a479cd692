"""Tar headers as tarfile writes them in its ustar format, without its fifty microseconds a member."""

import tarfile
from functools import cache

BLOCK = tarfile.BLOCKSIZE
_SIZE, _CHECKSUM = slice(124, 135), slice(148, 154)  # where a header holds them, in octal


def member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, data and padding of a read-only file of nobody at time 0; names have at most 100 ASCII bytes."""
    return header(name, len(data)), data, bytes(-len(data) % BLOCK)


def header(name: str, size: int) -> bytes:
    """512 bytes."""
    blank, checksum = _blank()
    written, digits = name.encode("ascii"), b"%011o" % size
    checksum += sum(written) + sum(digits) - sum(b"0" * 11)
    return b"".join((
        written, blank[len(written) : _SIZE.start], digits,
        blank[_SIZE.stop : _CHECKSUM.start], b"%06o" % checksum, blank[_CHECKSUM.stop :],
    ))  # fmt: skip


def end(size: int) -> bytes:
    """What follows `size` bytes of members."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


@cache
def _blank() -> tuple[bytes, int]:
    """The header of an empty file without a name, and its checksum."""
    nobody = tarfile.TarInfo("")
    nobody.mode, nobody.mtime = 0o444, 0
    made = nobody.tobuf(tarfile.USTAR_FORMAT)
    return made, int(made[_CHECKSUM], 8)
