"""One way to list and read images, wherever they lie.

To add a kind of source: write one file with

    class MySource(Located):  # a Source of one place; `Place` speaks local disk, S3 and GCS
        def items(self): return arrange(..., str(self.place), self.options)
        def read(self, paths): ...

    def recognise(place: Place, options: Options) -> MySource | None:
        return MySource(place.uri, options) if place.start.startswith(b"MY") else None

and add one line, its `recognise`, to `_KINDS` below.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Protocol

from pyarrow import fs

from pipeline.errors import UserError
from pipeline.ingest import cifar, folder, idx, list_file, mnist5k, parquet_file, stacked_mnist, tar_file, zip_file
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.item import Item
from pipeline.ingest.options import Options
from pipeline.ingest.place import Place

__all__ = ["Item", "Source", "open_source", "read_one"]


class Source(Hashable, Protocol):
    """Picklable and small: a copy opens its own files when it is first used, and sees when they change. Equal to its
    copies, and hashable, so that a process can keep one. One copy serves one thread."""

    def items(self) -> Iterable[Item]:
        """Each once, in the order in which they are best read, in memory that does not grow with them (a zip's
        directory excepted). Raises UserError if there are none or the source is broken."""
        ...

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        """The bytes of each path in turn, or why only this one cannot be had (`unreadable`, `corrupt`, ...).

        Quickest for a run of neighbours in the order of `items`.
        """
        ...


# The first that recognises a place opens it. A tar that ends in a zip looks like a zip too, never the reverse;
# a folder is the last resort.
_KINDS: tuple[Callable[[Place, Options], Source | None], ...] = (
    parquet_file.recognise,
    tar_file.recognise,
    zip_file.recognise,
    idx.recognise,
    cifar.recognise,
    list_file.recognise,
    folder.recognise,
)


def open_source(source: str, labels: str = "auto", image_column: str | None = None) -> Source:
    """A built-in source's name; or a path or URI, known by content, or by what lies in the folder. Lists nothing yet.

    `labels` and `image_column` are the recipe's `data.labels` and `data.image_column`. Raises UserError for what
    is missing, may not be read, or is of no known kind.
    """
    options = Options(labels, image_column)
    if source in _BUILT_IN:
        return _BUILT_IN[source](options)
    place = Place(source)
    if place.info.type == fs.FileType.NotFound:
        raise UserError(f"no source {place}; give a folder, {_FILES} or {' or '.join(_BUILT_IN)}")
    for recognise in _KINDS:
        if found := recognise(place, options):
            return found
    raise UserError(f"{place} is no {_FILES}, or a broken one; give one of these, whole, or a folder")


# What needs no place: its images come with a package.
_BUILT_IN: dict[str, Callable[[Options], Source]] = {
    mnist5k.NAME: mnist5k.Mnist5k,
    stacked_mnist.NAME: stacked_mnist.StackedMnist,
}


def is_built_in(source: str) -> bool:
    """Whether it is a name, and no place."""
    return source in _BUILT_IN


_FILES = "zip, tar, Parquet, CSV, JSONL, IDX or CIFAR-10 file"


def read_one(source: Source, path: str) -> bytes:
    """Raises InvalidImage if this item cannot be had."""
    (found,) = source.read([path])
    if isinstance(found, InvalidImage):
        raise found
    return found
