"""Shards opened for reading: a checked index beside a memory map of the tar."""

import mmap
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import BufferReader

from pipeline.config import Data
from pipeline.redact import redact
from pipeline.shards.copies import Copies
from pipeline.shards.damage import DamagedShard, first_fault
from pipeline.shards.index import Index, read_index
from pipeline.shards.manifest import DatasetRef, Manifest, Shard, Split, index_path, tar_place
from pipeline.shards.view import View, make_view, view_of
from pipeline.storage import Storage, sha256


@dataclass(slots=True)
class OpenShard:
    """Columns by row, as memory views: their items are plain ints, which numpy's are not."""

    tar: memoryview
    offset: memoryview
    size: memoryview
    crc32: memoryview
    label: memoryview
    keys: pa.StringArray
    skipped: dict[int, int]  # row to the step from which the run goes without it
    is_checked_anew: bool  # a second look would find what this one found

    def key(self, row: int) -> str:
        return self.keys[row].as_py()


class Opener:
    """Opens the shards of a dataset version. `view` says which of their rows there are, and as what."""

    def __init__(self, copies: Copies, dataset: DatasetRef, manifest: Manifest, view: View | None):
        self.copies, self.dataset, self.manifest, self.view = copies, dataset, manifest, view
        self._removed: dict[str, set[str]] | None = None
        self._elsewhere: dict[str, Copies] = {}  # of tars that others made, by where they lie

    def fetch(self, shard: Shard) -> None:
        """Brings both files here, and checks them."""
        for copies, path, expected in self._files(shard):
            copies.open(path, expected)[0].close()

    def open(self, shard: Shard, *, anew: bool, damaged_too: bool, skipped: dict[str, int]) -> OpenShard:
        """Raises DamagedShard where a byte is not what it was, unless `damaged_too`: crc32 then tells row by row.

        `anew` hashes what has been hashed before. `skipped` are keys with the steps from which they are.
        """
        if anew:
            for copies, path, _ in self._files(shard):
                copies.forget(path)
        try:
            index = self.index(shard)
        except DamagedShard:
            if not damaged_too:
                raise
            return self._without_rows(shard, skipped)
        try:
            tar, sound = self._tar(shard, index, damaged_too)
        except DamagedShard:
            if not damaged_too:
                raise
            tar, sound = memoryview(b""), False
        labels = index.label.astype(np.int64)
        if self.view:
            rows = self.view.rows(labels)
            index, labels = index.take(rows), self.view.numbers_of(labels[rows])
        keys = index.keys.to_pylist() if skipped else []
        return OpenShard(
            tar=tar,
            offset=_column(index.offset),
            size=_column(index.size),
            crc32=_column(index.crc32),
            label=_column(labels),
            keys=index.keys,
            skipped={row: skipped[key] for row, key in enumerate(keys) if key in skipped},
            is_checked_anew=anew or not sound,
        )

    def index(self, shard: Shard) -> Index:
        """The rows that this version holds of a shard. Raises DamagedShard."""
        copies, path, expected = self._files(shard)[0]
        file, sound = self._file(copies, path, expected)
        with file:
            data = file.read() if sound else b""
        try:
            whole = read_index(data)
        except ValueError:
            raise DamagedShard(f"{path} is damaged; delete it and shard the images again") from None
        index = whole.without(self._removed_of(shard))
        counts = len(whole.offset), len(whole.offset) - len(index.offset)
        if counts != (shard.samples, shard.removed):
            raise DamagedShard(
                f"{path} holds {counts[0]} samples, {counts[1]} of them removed;"
                f" the manifest says {shard.samples} and {shard.removed}"
            )
        if len(whole.offset) and int((whole.offset + whole.size).max()) > shard.bytes:
            raise DamagedShard(f"{path} names bytes beyond the {shard.bytes:,} of its tar")
        return index

    def _tar(self, shard: Shard, index: Index, damaged_too: bool) -> tuple[memoryview, bool]:
        copies, path, expected = self._files(shard)[1]
        file, sound = self._file(copies, path, expected)
        with file:
            # A map holds the file by itself, and the lock of a cached copy with it.
            empty = not file.seek(0, 2)
            tar = memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        sound = sound and len(tar) == shard.bytes
        if not sound and not damaged_too:
            fault = first_fault(tar, index, shard.bytes, ours=shard.uri is None)
            remedy = f"{path} is damaged: delete it and shard the images again"
            if shard.uri:  # which is somebody else's to delete
                remedy = f"{redact(shard.uri)} is damaged or has changed: restore it, or index it again"
            raise DamagedShard(
                f"shard {shard.sha256[:12]} of {self.dataset.name}: sample {fault.key} at byte {fault.offset}:"
                f" {fault.what}; {remedy}"
            )
        return tar, sound

    def _file(self, copies: Copies, path: str, expected: str) -> tuple[BinaryIO, bool]:
        try:
            return copies.open(path, expected)
        except FileNotFoundError:
            remedy = "shard the images again" if copies is self.copies else "put it back, or index the tars again"
            raise DamagedShard(f"{path} is missing from {copies.storage.name}; {remedy}") from None

    def _files(self, shard: Shard) -> tuple[tuple[Copies, str, str], tuple[Copies, str, str]]:
        """Index and tar: where they lie, and the sha256 of each."""
        index = self.copies, index_path(self.dataset.name, shard), shard.index_sha256
        storage, path = tar_place(self.copies.storage, self.dataset.name, shard)
        if storage is self.copies.storage:
            return index, (self.copies, path, shard.sha256)
        copies = self._elsewhere.setdefault(storage.uri, Copies(storage, by_content=True))
        return index, (copies, path, shard.sha256)

    def _without_rows(self, shard: Shard, skipped: dict[str, int]) -> OpenShard:
        """A shard of which nobody knows where its images lie: none of its rows has bytes."""
        if self.view:  # nor which of them belong to the view
            raise DamagedShard(f"{self._files(shard)[0][1]} is damaged; delete it and shard the images again")
        count = shard.samples - shard.removed
        nothing, wrong = _column(np.zeros(count, np.int64)), _column(np.ones(count, np.uint32))
        keys = [f"{shard.sha256}/{row}" for row in range(count)]
        known = {row: skipped[key] for row, key in enumerate(keys) if key in skipped}
        return OpenShard(memoryview(b""), nothing, nothing, wrong, nothing, pa.array(keys), known, True)

    def _removed_of(self, shard: Shard) -> set[str]:
        if not shard.removed:
            return set()
        if self._removed is None:
            storage, path = self.copies.storage, f"{self.dataset.folder}/removed.parquet"
            try:
                data = storage.read(path)
            except FileNotFoundError:
                raise DamagedShard(f"{path} is missing from {storage.name}; restore it from a copy") from None
            if sha256(data) != self.manifest.removed_sha256:
                raise DamagedShard(f"{path} is damaged; restore it from a copy")
            removed: dict[str, set[str]] = {}
            for row in pq.read_table(BufferReader(data)).to_pylist():
                removed.setdefault(row["shard"], set()).add(row["key"])
            self._removed = removed
        return self._removed.get(shard.sha256, set())


def open_view(storage: Storage, dataset: DatasetRef, manifest: Manifest, data: Data) -> View | None:
    """The training images that `data` shows; None for all. Raises UserError, and DamagedShard."""
    opener = Opener(Copies(storage), dataset, manifest, None)
    return make_view(manifest, data, manifest.of_split("train"), opener.index)


def open_classes(
    storage: Storage, dataset: DatasetRef, manifest: Manifest, split: Split, shown: list[str]
) -> View | None:
    """The images of these classes, in the dataset's order; None for all. Raises DamagedShard."""
    if shown == manifest.classes:
        return None
    opener = Opener(Copies(storage), dataset, manifest, None)
    return view_of(manifest, shown, False, manifest.of_split(split), opener.index)


def _column(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).data
