"""Which class an item is of. What needs the whole listing first waits in a temporary file, not in memory."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import IO

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.ingest.item import Item
from pipeline.ingest.label_file import read_labels
from pipeline.ingest.options import Options

_IN_MEMORY = 200_000  # items of a listing that need no file
_BATCH = 10_000
_SCHEMA = pa.schema({"path": pa.string(), "label": pa.string(), "size": pa.int64(), "stamp": pa.string()})


def arrange(
    listed: Iterable[Item], where: str, options: Options, *, inside: Callable[[str], str] | None = None
) -> Iterator[Item]:
    """`listed`, in its order, with the labels that are asked for; raises UserError if there are no items.

    The label of a listed item is the source's own. `inside` gives the part of a path whose folders may be
    classes; None: folders say nothing in this source.
    """
    listed = _checked(listed, where)
    if options.labels == "none":
        return (Item(item.path, None, item.size, item.stamp) for item in listed)
    if options.label_file is not None:
        return _from_file(listed, where, options.label_file, inside or str)
    if options.label_column is not None:
        return _from_column(listed, where, options.label_column)
    return listed if inside is None else _from_folders(listed, where, inside)


def _from_file(listed: Iterator[Item], where: str, uri: str, inside: Callable[[str], str]) -> Iterator[Item]:
    labels, found, example = read_labels(uri), False, ""

    def labelled() -> Iterator[Item]:
        nonlocal found, example
        for item in listed:
            example = inside(item.path)
            label = labels.get(example)
            found = found or label is not None
            yield Item(item.path, label, item.size, item.stamp)

    with _spooled(labelled(), where) as spooled:
        if not found:
            raise UserError(f"{uri} labels nothing of {where}; write paths as the source does, like {example}")
        yield from spooled


def _from_column(listed: Iterator[Item], where: str, column: str) -> Iterator[Item]:
    found = False

    def looked_at() -> Iterator[Item]:
        nonlocal found
        for item in listed:
            found = found or item.label is not None
            yield item

    with _spooled(looked_at(), where) as spooled:
        if not found:
            raise UserError(
                f"{where} has no column {column} for data.labels;"
                " only Parquet, CSV, JSONL and the JSON of WebDataset samples have columns"
            )
        yield from spooled


def _from_folders(listed: Iterator[Item], where: str, inside: Callable[[str], str]) -> Iterator[Item]:
    """The source's own labels if it has any. Else an item's class is its first folder, below folders that wrap
    everything else; if any file lies beside the classes, or there is only one class, nothing has a label."""
    own = False
    common: list[str] | None = None  # the folders that all items share
    shallowest = 0  # folders around the item that lies in fewest

    def looked_at() -> Iterator[Item]:
        nonlocal own, common, shallowest
        last = None
        for item in listed:
            yield item
            own = own or item.label is not None
            folder = inside(item.path).rpartition("/")[0]
            if folder == last:
                continue
            last = folder
            folders = folder.split("/") if folder else []
            if common is None:
                common, shallowest = folders, len(folders)
            else:
                if folders[: len(common)] != common:
                    common = common[: _shared(common, folders)]
                shallowest = min(shallowest, len(folders))

    with _spooled(looked_at(), where) as spooled:
        assert common is not None
        depth = min(len(common), max(shallowest - 1, 0))
        by_folder = shallowest > depth == len(common)
        if own or not by_folder:
            yield from spooled
            return
        last = label = None
        for path, _, size, stamp in spooled:
            folder = inside(path).rpartition("/")[0]
            if folder != last:
                last, label = folder, folder.split("/")[depth]
            yield Item(path, label, size, stamp)


def _shared(one: list[str], other: list[str]) -> int:
    """How many folders two paths share from the start."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _checked(listed: Iterable[Item], where: str) -> Iterator[Item]:
    empty = True
    for item in listed:
        empty = False
        if not item.path.isascii():
            try:
                item.path.encode()
            except UnicodeEncodeError:
                raise UserError(f"file name {item.path!r} in {where} is not UTF-8; rename the file") from None
        yield item
    if empty:
        raise UserError(f"no files in {where}; put images in it, each class in a sub-folder")


@contextmanager
def _spooled(items: Iterator[Item], where: str) -> Iterator[Iterable[Item]]:
    """The same items again, once all of them have been seen."""
    first = list(islice(items, _IN_MEMORY))
    if len(first) < _IN_MEMORY:
        yield first
        return
    with tempfile.TemporaryFile(prefix="ganline-") as file:
        writer = pa.ipc.new_stream(file, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        while batch := list(islice(items, _BATCH)):
            columns = list(map(list, zip(*batch, strict=True)))
            try:
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
                file.flush()
            except OSError as error:
                raise UserError(f"no room to list {where}: {error}; point TMPDIR to a folder with room") from None
        writer.close()
        file.seek(0)
        yield chain(first, _stored(file))


def _stored(file: IO[bytes]) -> Iterator[Item]:
    for batch in pa.ipc.open_stream(file):
        yield from map(Item._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))
