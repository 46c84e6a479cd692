"""The images of a dataset version by shard and row, each checked as it is read."""

import logging
import os
import resource
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import numpy as np
from isal import isal_zlib

from pipeline.shards.ahead import Ahead
from pipeline.shards.cache import CacheFull
from pipeline.shards.copies import Copies
from pipeline.shards.damage import DamagedShard, Skip, Skips, stand_ins
from pipeline.shards.foreign.pixels import put_into
from pipeline.shards.manifest import DatasetRef, Manifest, Split, load_manifest
from pipeline.shards.opened import Opener, OpenShard
from pipeline.shards.view import View
from pipeline.storage import Storage

_PutOne = Callable[[memoryview], None]  # where it belongs in the batch
_ROWS_OPEN = 1 << 20  # of whose indexes some 70 bytes each are held
log = logging.getLogger(__name__)


def _room(counts: list[int]) -> int:
    """How many shards of these sizes can be open: to open one takes as long as to read a hundred images."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(descriptors // 4, _ROWS_OPEN // max([1, *counts]))


class DatasetReader:
    """Reads the images of one split of a dataset version by shard number and row.

    `keep_open` shards stay mapped at once; more of a local root's, which pin no copies. A shard is hashed when it is
    first opened, an image checked by its crc32 whenever it is read. What is damaged is fetched, or read, afresh once;
    where that does not help, it raises DamagedShard, or, given `skips`, records the image there and shows another in
    its place.
    """

    def __init__(
        self,
        storage: Storage,
        dataset: DatasetRef,
        split: Split,
        keep_open: int = 64,
        *,
        view: View | None = None,
        skips: Skips | None = None,
    ):
        self.storage, self.dataset, self.split, self.keep_open = storage, dataset, split, keep_open
        self.view, self.skips = view, skips
        self.manifest: Manifest = load_manifest(storage, dataset)
        self.shards = self.manifest.of_split(split)
        self.counts = view.counts if view else [shard.samples - shard.removed for shard in self.shards]
        self._most_open = max(keep_open, _room(self.counts)) if storage.is_local else keep_open
        self._ends = np.cumsum(self.counts)
        self._begin()

    def __reduce__(self):  # a process opens its own maps
        given = (self.storage, self.dataset, self.split, self.keep_open)
        return partial(DatasetReader, view=self.view, skips=self.skips), given

    def __len__(self) -> int:
        return sum(self.counts)

    def read(self, shards: np.ndarray, rows: np.ndarray, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 `(n, h, w, c)` and labels int64 `(n,)`, -1 where there is none.

        Raises DamagedShard. `step` is where skipping is counted from.
        """
        if self._process != os.getpid():
            self._begin()
        size = self.manifest.resolution
        images = np.empty((len(rows), size, size, self.manifest.channels), dtype=np.uint8)
        labels, met = [], list[Skip]()
        # The one place where a row's bytes become pixels; here for speed, and with care in _read_slowly.
        put = put_into(self.manifest, images)
        opened, crc32, place = self._open, isal_zlib.crc32, -1
        numbers = shards.tolist()
        for number, row in zip(numbers, rows.tolist(), strict=True):
            place += 1
            shard = opened.get(number) or self._shard(number)
            begin = shard.offset[row]
            data = shard.tar[begin : begin + shard.size[row]]
            if crc32(data) != shard.crc32[row] or row in shard.skipped:
                labels.append(self._read_slowly(number, row, step, partial(put, place), met))
                continue
            try:
                put(place, data)
            except (ValueError, OSError):
                labels.append(self._read_slowly(number, row, step, partial(put, place), met))
            else:
                labels.append(shard.label[row])
        for number in set(numbers):
            if number in opened:
                opened.move_to_end(number)
        if met and self.skips:
            self.skips.add(met)
        return images, np.array(labels, dtype=np.int64)

    def read_all(self) -> tuple[np.ndarray, np.ndarray]:
        """Every image of the split, in shard order."""
        shards = np.repeat(np.arange(len(self.counts)), self.counts)
        rows = np.concatenate([np.arange(count) for count in self.counts]) if self.counts else shards
        return self.read(shards, rows)

    def keys(self, shards: np.ndarray, rows: np.ndarray) -> list[str]:
        return [self._shard(number).key(row) for number, row in zip(shards.tolist(), rows.tolist(), strict=True)]

    def look_ahead(self, numbers: list[int]) -> None:
        """Has these shards fetched and checked in the background."""
        if self._process != os.getpid():
            self._begin()
        self._ahead.want([number for number in numbers if number not in self._open])

    def close(self) -> None:
        """Nothing is fetched in the background any more."""
        self._ahead.close()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._opener = Opener(Copies(self.storage), self.dataset, self.manifest, self.view)
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._ahead = Ahead(lambda number: self._opener.fetch(self.shards[number]))

    def _shard(self, number: int, *, anew: bool = False) -> OpenShard:
        if not anew and number in self._open:
            return self._open[number]
        shard = self.shards[number]
        self._open.pop(number, None)
        skipped = self.skips.of(shard.sha256) if self.skips else {}
        how = partial(self._opener.open, shard, anew=anew, damaged_too=self.skips is not None, skipped=skipped)
        try:
            self._open[number] = how()
        except CacheFull:  # by our own maps, perhaps
            self._open.clear()
            self._open[number] = how()
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)
        return self._open[number]

    def _read_slowly(self, number: int, row: int, step: int, put: _PutOne, met: list[Skip]) -> int:
        """What the fast way refused: the image from fresh bytes, or one that stands in for it; its label."""
        shard = self._try(number, row, step, put, met)
        if shard:
            return shard.label[row]
        for place in stand_ins(self._shard(number).key(row), len(self)):
            number = int(np.searchsorted(self._ends, place, side="right"))
            row = int(place - self._ends[number] + self.counts[number])
            shard = self._try(number, row, step, put, met)
            if shard:
                return shard.label[row]
        raise DamagedShard(f"hardly an image of {self.dataset.name} can be read; restore it, or shard the images again")

    def _try(self, number: int, row: int, step: int, put: _PutOne, met: list[Skip]) -> OpenShard | None:
        """The shard, once its image has been put; None if it is skipped, or damaged for good."""
        shard = self._shard(number)
        if shard.skipped.get(row, step + 1) <= step:
            return None
        wrong = self._copy(shard, row, put)
        if wrong and not shard.is_checked_anew:
            shard = self._shard(number, anew=True)
            wrong = self._copy(shard, row, put)
        if not wrong:
            return shard
        skip = Skip(shard.key(row), self.shards[number].sha256, shard.offset[row], wrong, step)
        said = f"shard {skip.shard[:12]} of {self.dataset.name}: sample {skip.key} at byte {skip.offset}: {wrong}"
        if self.skips is None:
            raise DamagedShard(f"{said}; delete the shard and shard the images again")
        log.warning("%s; another image stands in for it", said)
        shard.skipped[row] = step
        met.append(skip)
        return None

    def _copy(self, shard: OpenShard, row: int, put: _PutOne) -> str:
        """What is wrong with an image, if it can not be had."""
        begin = shard.offset[row]
        data = shard.tar[begin : begin + shard.size[row]]
        if len(data) < shard.size[row]:
            return "the tar ends before its end" if len(shard.tar) else "there are no bytes"
        if isal_zlib.crc32(data) != shard.crc32[row]:
            return "its bytes have changed"
        try:
            put(data)
        except (ValueError, OSError) as error:
            return (str(error).splitlines() or [type(error).__name__])[0]
        return ""
