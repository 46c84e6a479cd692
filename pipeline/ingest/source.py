"""One way to list and read images, wherever they lie."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.errors import UserError
from pipeline.ingest.archive import open_archive
from pipeline.ingest.folder import FolderSource
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.layout import Item
from pipeline.ingest.mnist5k import Mnist5k

__all__ = ["Item", "Source", "open_source", "read_one"]


_BUILT_IN = "mnist5k"


class Source(Protocol):
    """Picklable: a copy opens its own files when it is first used. One copy serves one thread."""

    def items(self) -> Iterable[Item]:
        """Each once, in the order in which they are best read; raises UserError if there are none."""
        ...

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        """The bytes of each path in turn, or why only this one cannot be had (`unreadable`, `corrupt`).

        Quickest for a run of neighbours in the order of `items`.
        """
        ...


def open_source(source: str, *, listed: bool = True) -> Source:
    """`mnist5k`, a folder, a zip or a tar (gzip, bzip2 or xz too), known by content, not by name.

    Raises UserError for what is missing or no archive and, unless `listed` is false, empty or broken.
    """
    if source == _BUILT_IN:
        return Mnist5k()
    opened = _open(Path(absolute(source)))
    if listed:
        opened.items()  # kept for who asks next
    return opened


def read_one(source: Source, path: str) -> bytes:
    """Raises InvalidImage if this item cannot be had."""
    (found,) = source.read([path])
    if isinstance(found, InvalidImage):
        raise found
    return found


def absolute(source: str) -> str:
    """The same source wherever it is opened."""
    return source if source == _BUILT_IN else str(Path(source).expanduser().resolve())


def _open(path: Path) -> Source:
    try:
        if path.is_dir():
            return FolderSource(str(path))
        if path.is_file():
            return open_archive(str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it readable") from None
    raise UserError(f"no source {path}; give a folder, a zip, a tar or mnist5k")
