"""Batches of a dataset version as a function of the step. Nothing is remembered, so resuming costs nothing."""

import hashlib
import mmap
import os
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from pyarrow import BufferReader
from torch.utils.data import Dataset

from pipeline.shards.foreign.pixels import decoder
from pipeline.shards.index import Index, read_index
from pipeline.shards.manifest import DatasetRef, Manifest, Shard, Split, index_path, load_manifest, tar_place
from pipeline.shards.order import Order
from pipeline.storage import Storage, cache_root, sha256


class DamagedShard(Exception):
    """A shard whose bytes are not those that the manifest names. Says which, and what to do."""


class DatasetReader:
    """Reads the images of one split of a dataset version by shard number and row.

    `keep_open` shards stay mapped at once; opening one hashes it.
    """

    def __init__(self, storage: Storage, dataset: DatasetRef, split: Split, keep_open: int = 64):
        self.storage, self.dataset, self.keep_open = storage, dataset, keep_open
        self.manifest: Manifest = load_manifest(storage, dataset)
        self._decode = decoder(self.manifest)
        self.shards = self.manifest.of_split(split)
        self.counts = [shard.samples - shard.removed for shard in self.shards]
        self._removed: dict[str, set[str]] | None = None
        self._open: OrderedDict[int, tuple[Index, mmap.mmap]] = OrderedDict()

    def __len__(self) -> int:
        return sum(self.counts)

    def read(self, shards: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 `(n, h, w, c)` and labels int64 `(n,)`, -1 where there is none.

        Raises DamagedShard where an image's bytes do not match its index.
        """
        size = self.manifest.resolution
        images = np.empty((len(rows), size, size, self.manifest.channels), dtype=np.uint8)
        labels = np.empty(len(rows), dtype=np.int64)
        for place, (number, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            index, tar = self._shard(number)
            begin = index.offset[row]
            data = tar[begin : begin + index.size[row]]
            if zlib.crc32(data) != index.crc32[row]:
                raise DamagedShard(f"{self._place(number)}: sample {index.keys[row]} at byte {begin} is damaged")
            images[place] = self._decode(data)
            labels[place] = index.label[row]
        return images, labels

    def read_all(self) -> tuple[np.ndarray, np.ndarray]:
        """Every image of the split, in shard order."""
        shards = np.repeat(np.arange(len(self.counts)), self.counts)
        rows = np.concatenate([np.arange(count) for count in self.counts]) if self.counts else shards
        return self.read(shards, rows)

    def keys(self, shards: np.ndarray, rows: np.ndarray) -> list[str]:
        return [self._shard(number)[0].keys[row].as_py() for number, row in zip(shards, rows, strict=True)]

    def _shard(self, number: int) -> tuple[Index, mmap.mmap]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.shards[number]
        rows_path, tar_path = (
            verified_copy(self.storage, index_path(self.dataset.name, shard), shard.index_sha256),
            verified_copy(*tar_place(self.storage, self.dataset.name, shard), shard.sha256, foreign=bool(shard.uri)),
        )
        index = read_index(rows_path.read_bytes()).without(self._removed_of(shard))
        with open(tar_path, "rb") as file:
            tar = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._open[number] = index, tar
        if len(self._open) > self.keep_open:
            self._open.popitem(last=False)[1][1].close()
        return self._open[number]

    def _removed_of(self, shard: Shard) -> set[str]:
        if not shard.removed:
            return set()
        if self._removed is None:
            path = f"{self.dataset.folder}/removed.parquet"
            try:
                data = self.storage.read(path)
            except FileNotFoundError:
                raise DamagedShard(f"{path} is missing from {self.storage.uri}; restore it from a copy") from None
            if sha256(data) != self.manifest.removed_sha256:
                raise DamagedShard(f"{path} is damaged; restore it from a copy")
            self._removed = {}
            for row in pq.read_table(BufferReader(data)).to_pylist():
                self._removed.setdefault(row["shard"], set()).add(row["key"])
        return self._removed.get(shard.sha256, set())

    def _place(self, number: int) -> str:
        return f"shard {self.shards[number].sha256[:12]} of {self.dataset.name}"


def verified_copy(storage: Storage, path: str, expected: str, *, foreign: bool = False) -> Path:
    """A local file with these bytes: the stored one itself on local disk, else a cached copy.

    Hashes the whole file at each call. Raises DamagedShard where the bytes are others.
    """
    try:
        if storage.is_local:
            local = storage.local_path(path)
        else:
            local = cache_root(storage) / "shards" / f"{expected}{Path(path).suffix}"
            if not local.exists():
                data = storage.read(path)
                local.parent.mkdir(parents=True, exist_ok=True)
                partial = local.with_name(f".{local.name}.{os.getpid()}.tmp")
                partial.write_bytes(data)
                os.replace(partial, local)
        with open(local, "rb") as file:
            damaged = hashlib.file_digest(file, "sha256").hexdigest() != expected
    except FileNotFoundError:
        remedy = "put it back, or index the tars again" if foreign else "shard the images again"
        raise DamagedShard(f"{path} is missing from {storage.uri}; {remedy}") from None
    if damaged:
        if not storage.is_local:
            local.unlink()  # the next call fetches it anew
        if foreign:
            raise DamagedShard(f"{storage.child_uri(path)} is damaged or has changed; restore it, or index it again")
        raise DamagedShard(f"{path} is damaged; delete it and shard the images again")
    return local


class StreamBatches(Dataset):
    """Maps a step to this rank's rows of that step's global batch: `(images, labels)` as torch tensors.

    Images are uint8 `(n, c, h, w)` in channels_last memory; the rows of stream `l` come before those of `l + 1`.
    """

    def __init__(self, reader: DatasetReader, order: Order, streams: range):
        self.reader, self.order, self.streams = reader, order, streams

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        places = [self.order.rows(step, stream) for stream in self.streams]
        shards, rows = (np.concatenate(column) for column in zip(*places, strict=True))
        images, labels = self.reader.read(shards, rows)
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
