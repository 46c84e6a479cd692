"""The members of a tar, and what is wrong between them: ustar, GNU (long names, large sizes) and PAX headers.

Damage never raises. No size is believed beyond the end of the file, and every step goes forward.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, overload

from pipeline.storage import Storage

BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 20  # bytes read at a time

# Headers that only describe the member after them. So many before one member, and so large a one, no writer makes;
# without a limit, a hostile tar has each of its blocks read again and again.
_LONG_NAME, _LONG_LINK, _PAX, _PAX_FOR_ALL = b"L", b"K", (b"x", b"X"), b"g"
_DESCRIBING = (_LONG_NAME, _LONG_LINK, *_PAX, _PAX_FOR_ALL)
_MOST_BEFORE_ONE = 8
_LARGEST = 1 << 20  # bytes
_LONGEST_NAME = 4096  # what a path may have

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_BYTES = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")
_HEEDED = ("path", "size")  # of the PAX keywords
_SPARSE = "GNU.sparse"
_BEYOND = "the header tells of more bytes than the tar has"


class Bytes(Protocol):
    """The bytes of a file, in memory or on disk."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, index: int, /) -> int: ...

    @overload
    def __getitem__(self, index: slice, /) -> bytes: ...


class _OnDisk:
    """Read as asked for: a memory map would end the process where the disk, or who cuts the file, raises here."""

    def __init__(self, descriptor: int):
        self._descriptor, self._size = descriptor, os.fstat(descriptor).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index):
        if isinstance(index, int):
            return self[index : index + 1][0]
        begin, end, _ = index.indices(self._size)
        return os.pread(self._descriptor, max(0, end - begin), begin)


@contextmanager
def open_tar(storage: Storage, path: str) -> Iterator[Bytes]:
    """Its bytes: those on local disk as they are asked for, others all at once. Raises OSError."""
    if not storage.is_local:
        yield storage.read(path)
        return
    descriptor = os.open(storage.local_path(path), os.O_RDONLY)
    try:
        yield _OnDisk(descriptor)
    finally:
        os.close(descriptor)


def pieces(tar: Bytes) -> Iterator[bytes]:
    for at in range(0, len(tar), _PIECE):
        yield tar[at : at + _PIECE]


@dataclass(frozen=True)
class Member:
    """A regular file. `at`: of the first header that is its; `offset`: of its bytes."""

    name: str
    at: int
    offset: int
    size: int

    @property
    def key(self) -> str:
        """WebDataset's: the path up to the first dot of the base name."""
        return key_of(self.name)

    @property
    def padded_end(self) -> int:
        return padded(self.offset + self.size)


@dataclass(frozen=True)
class Fault:
    """`hides`: members may be lost by it."""

    at: int
    what: str
    hides: bool = True


@dataclass(frozen=True)
class Walk:
    """The regular files of a tar, what is wrong between them, and whether it has an end mark."""

    members: list[Member]
    faults: list[Fault]
    ended: bool


def key_of(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def walk(tar: Bytes, expected: int | None = None) -> Walk:
    """Goes from header to header; after one that is damaged, on to the next block that is a sound one.

    A member that is longer than the file ends the walk where the file has fewer bytes than the `expected`, or where
    nobody knows how many it should have: it was cut. In a file that is as long as it should be, the header lies.
    """
    members: list[Member] = []
    faults: list[Fault] = []
    for_all: dict[str, str] = {}
    at, content_end = 0, _content_end(tar)
    while len(tar) - at >= BLOCK:
        if at >= content_end:  # nothing but zeros to the end
            return Walk(members, faults, True)
        try:
            member, is_file = _member(tar, at, for_all)
        except _Damaged as damaged:
            if damaged.beyond and (expected is None or len(tar) < expected):
                break
            faults.append(Fault(damaged.at, damaged.what))
            at = _next_sound(tar, damaged.resume, content_end)
            continue
        at = member.padded_end
        if is_file:
            members.append(member)
            if padding := tar[member.offset + member.size : at].lstrip(b"\0"):
                faults.append(
                    Fault(min(at, len(tar)) - len(padding), f"the padding after {member.name} is not zero", hides=False)
                )
    return Walk(members, faults, False)


class _Damaged(Exception):
    """`resume`: the block to look on from, past every header that was read, so that none is read twice.

    `beyond`: because the file ends before the member does.
    """

    def __init__(self, at: int, what: str, resume: int, beyond: bool = False):
        self.at, self.what, self.resume, self.beyond = at, what, resume, beyond


def _member(tar: Bytes, begin: int, for_all: dict[str, str]) -> tuple[Member, bool]:
    """What the headers from `begin` describe, and whether it is a regular file. Raises _Damaged.

    `for_all` holds the global PAX records so far.
    """
    at, long_name, records = begin, None, dict[str, str]()
    for _ in range(_MOST_BEFORE_ONE):
        header, offset = tar[at : at + BLOCK], at + BLOCK
        if len(header) < BLOCK:
            raise _Damaged(begin, _BEYOND, offset, beyond=True)
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
        except tarfile.HeaderError:
            what = "the header is damaged: its checksum is wrong" if any(header) else "the header is zeroed"
            raise _Damaged(at, what, offset) from None
        if info.size < 0:
            raise _Damaged(at, "the header is damaged: its size is negative", offset)
        if info.type not in _DESCRIBING:
            return _described(tar, begin, offset, info, long_name, {**for_all, **records})
        if offset + info.size > len(tar):
            raise _Damaged(at, _BEYOND, offset, beyond=True)
        if info.size > _LARGEST:
            raise _Damaged(at, f"a header of {info.size} bytes that only describes a member", offset)
        data = tar[offset : offset + info.size]
        if info.type == _LONG_NAME:
            long_name = data.partition(b"\0")[0].decode("utf-8", "backslashreplace")
        elif info.type != _LONG_LINK:
            told = _records(data)
            if told is None:
                raise _Damaged(at, "the PAX header is damaged: its records can not be read", offset)
            (for_all if info.type == _PAX_FOR_ALL else records).update(told)
        at = padded(offset + info.size)
    raise _Damaged(begin, f"{_MOST_BEFORE_ONE} headers that describe no member", at)


def _described(
    tar: Bytes, begin: int, offset: int, info: tarfile.TarInfo, long_name: str | None, records: dict[str, str]
) -> tuple[Member, bool]:
    at, size = offset - BLOCK, info.size
    if info.type == tarfile.GNUTYPE_SPARSE or _SPARSE in records:
        raise _Damaged(at, "a sparse file: its bytes do not lie together", offset)
    if "size" in records:
        if not re.fullmatch(r"[0-9]{1,18}", records["size"], re.ASCII):
            raise _Damaged(begin, f"the PAX header is damaged: its size is {records['size'][:20]!r}", offset)
        size = int(records["size"])
    if info.type in _WITHOUT_BYTES:
        size = 0
    if offset + size > len(tar):
        raise _Damaged(at, _BEYOND, offset, beyond=True)
    name = records.get("path") or long_name or info.name
    if len(name) > _LONGEST_NAME:
        raise _Damaged(begin, f"a name of {len(name)} characters", offset)
    return Member(name, begin, offset, size), info.type in _FILES


def _records(data: bytes) -> dict[str, str] | None:
    """Those of a PAX header that say where a file is; None if the lengths, which each gives of itself, do not fit."""
    found, at = dict[str, str](), 0
    while at < len(data) and data[at]:
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if not match or end <= match.end() or end > len(data) or data[end - 1 : end] != b"\n":
            return None
        keyword = match[2].decode("utf-8", "backslashreplace")
        if keyword in _HEEDED:
            found[keyword] = data[match.end() : end - 1].decode("utf-8", "backslashreplace")
        elif keyword.startswith(f"{_SPARSE}."):
            found[_SPARSE] = ""
        at = end
    return found


def _next_sound(tar: Bytes, at: int, content_end: int) -> int:
    """The next block that is a header, or the first after the content."""
    while at < content_end:
        header = tar[at : at + BLOCK]
        if header[257:262] == b"ustar":
            try:
                if tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace").size >= 0:
                    return at
            except tarfile.HeaderError:
                pass
        at += BLOCK
    return at


def _content_end(tar: Bytes) -> int:
    """Where the zeros begin that a tar ends with."""
    end = len(tar)
    while end:
        begin = max(0, end - _PIECE)
        if content := tar[begin:end].rstrip(b"\0"):
            return begin + len(content)
        end = begin
    return 0
