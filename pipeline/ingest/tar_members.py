"""The members of a tar, one after the other in little memory, and what WebDataset reads into their names."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.ingest.item import clean

_IMAGES = (
    "avif", "bmp", "gif", "j2k", "jp2", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp",
)  # fmt: skip
_LABEL_BYTES = 1 << 20
_EXTENSIONS = (b"L", b"K", b"x", b"g", b"X")  # GNU's long names, PAX records
_EXTENSION_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file."""

    name: str
    offset: int  # of its first header
    data: int  # offset of its bytes
    size: int

    @property
    def sample(self) -> str:
        """WebDataset's key: the folders, and the name up to its first dot."""
        folder, slash, name = self.name.rpartition("/")
        return folder + slash + (name.partition(".")[0] or name)

    @property
    def suffix(self) -> str:
        return self.name.rpartition("/")[2].partition(".")[2].lower()

    @property
    def extension(self) -> str:
        return self.name.rpartition(".")[2].lower()


def images_of(sample: Sequence[Member]) -> list[Member]:
    """Its image files, or else its arrays: beside an image an array is something about it."""
    images = [member for member in sample if member.extension in _IMAGES]
    return images or [member for member in sample if member.extension == "npy"]


class Header(tarfile.TarInfo):
    """Refuses what Python's own reader would take for gigabytes of a name, or walk backwards for."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "Header":
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > _EXTENSION_BYTES):
            raise tarfile.ReadError(f"a header that claims {header.size} bytes")
        return header


def members(archive: tarfile.TarFile) -> Iterator[Member]:
    """In the order in which they lie. Raises TarError or OSError where the tar is broken, its end included."""
    file: Any = archive.fileobj
    archive.firstmember = None  # type: ignore[attr-defined]
    file.seek(0)
    at = 0
    while True:
        archive.offset = at  # others read from the same tar in between
        member = archive.next()
        if member is not None and archive.offset <= at:
            raise tarfile.ReadError(f"the member at byte {at} ends before it begins")
        at = archive.offset
        archive.members.clear()  # type: ignore[attr-defined]  # which would grow with the tar
        if member is None:
            break
        if member.isreg():
            yield Member(clean(member.name), member.offset, member.offset_data, member.size)
    # tarfile takes a damaged header, or none, for the end: then every later image would be lost unnoticed.
    file.seek(at)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no member and no end mark at byte {at}")


def sample_label(archive: tarfile.TarFile, sample: Sequence[Member], column: str | None) -> str | None:
    """What the sample's `.cls`, or else its `.json`, says; only its `.json` if a column of it is named."""
    texts = {member.suffix: member for member in sample}
    if column is None and (member := texts.get("cls")):
        return _text(archive, member).strip() or None
    if member := texts.get("json"):
        try:
            values = json.loads(_text(archive, member))
        except ValueError as error:
            raise UserError(f"{member.name} in the tar is no JSON: {error}; mend it, or say data.labels=none") from None
        if isinstance(values, dict):
            label = next((values[name] for name in ([column] if column else ["label", "cls"]) if name in values), None)
            return str(label) if isinstance(label, str | int) else None
    return None


def _text(archive: tarfile.TarFile, member: Member) -> str:
    if member.size > _LABEL_BYTES:
        raise UserError(f"{member.name} in the tar is no label: {member.size} bytes; mend it, or say data.labels=none")
    file: Any = archive.fileobj
    file.seek(member.data)
    return file.read(member.size).decode("utf-8", "replace")
