"""What is wrong with a shard and where, and the samples that a run goes without."""

import os
import tarfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from isal import isal_zlib

from ganmodels.randomness import keyed_seed
from pipeline.shards.index import Index
from pipeline.storage import Storage

_BLOCK = tarfile.BLOCKSIZE


class DamagedShard(Exception):
    """A shard whose bytes are not those that the manifest names. Says which, where, and what to do."""


@dataclass(frozen=True)
class Fault:
    """The first thing that is wrong in a tar: at which byte, in the member of which sample."""

    offset: int
    key: str
    what: str


def first_fault(tar: memoryview, index: Index, expected_bytes: int, ours: bool) -> Fault:
    """Where a tar that is not the one that was written begins to differ, as far as its index can tell.

    What lies between the images, headers above all, is looked at in tars of `ours`: others have other headers.
    """
    at, key = 0, ""
    order = np.argsort(index.offset, kind="stable").tolist()
    for key, offset, size, crc in zip(
        index.keys.take(order).to_pylist(),
        index.offset[order].tolist(), index.size[order].tolist(), index.crc32[order].tolist(), strict=True,
    ):  # fmt: skip
        while ours and at < offset:
            info, what = _header(tar[at : at + _BLOCK])
            if info is None:
                return Fault(at, key, what)
            payload = at + _BLOCK
            following = payload + -(-info.size // _BLOCK) * _BLOCK
            if payload == offset and not info.name.startswith(f"{key}."):
                return Fault(at, key, f"{info.name} lies where its image should")
            if payload != offset and following > offset:
                return Fault(at, key, "a member is missing, or of another size")
            at = following
        at = offset + -(-size // _BLOCK) * _BLOCK
        if offset + size > len(tar):
            return Fault(offset, key, f"the tar ends within it, after {len(tar):,} bytes")
        if isal_zlib.crc32(tar[offset : offset + size]) != crc:
            return Fault(offset, key, "its bytes have changed")
    if len(tar) != expected_bytes:
        return Fault(len(tar), key, f"the tar has {len(tar):,} bytes, not {expected_bytes:,}")
    return Fault(at, key, "every image up to it is whole, but what lies between them, or after it, has changed")


def _header(block: memoryview) -> tuple[tarfile.TarInfo | None, str]:
    if len(block) < _BLOCK:
        return None, "the tar ends before it"
    try:
        return tarfile.TarInfo.frombuf(block.tobytes(), "utf-8", "surrogateescape"), ""
    except tarfile.HeaderError:
        return None, "its header has changed" if any(block) else "its header is zeroed"


def stand_ins(key: str, samples: int) -> Iterator[int]:
    """Places of `range(samples)` to look for what stands in for a sample, the same for the same key."""
    return (keyed_seed(key, "stand-in", attempt) % samples for attempt in range(1000))


@dataclass(frozen=True)
class Skip:
    """A sample that a run goes without from a step on."""

    key: str
    shard: str
    offset: int
    why: str
    step: int


class Skips:
    """What a run goes without: a folder of small JSON files, one of each process that met damage.

    A sample that is in it is skipped from its step on, sound or not, so that a resumed run shows what the run
    before it did.
    """

    def __init__(self, storage: Storage, folder: str):
        self.storage, self.folder = storage, folder
        self.met: list[Skip] = []
        self._owner, self._name = 0, ""
        self._from: dict[str, dict[str, int]] = {}
        for skip in read_skips(storage, folder):
            self._know(skip)

    def of(self, shard: str) -> dict[str, int]:
        """Key to the step from which it is skipped."""
        return self._from.get(shard, {})

    def add(self, skips: Iterable[Skip]) -> None:
        """Records them before what stands in for them is used."""
        if self._owner != os.getpid():  # a forked process has a file of its own
            self._owner, self._name, self.met = os.getpid(), uuid.uuid4().hex, []
        for skip in skips:
            self._know(skip)
            self.met.append(skip)
        self.storage.write_json(f"{self.folder}/{self._name}.json", [asdict(skip) for skip in self.met])

    def _know(self, skip: Skip) -> None:
        steps = self._from.setdefault(skip.shard, {})
        steps[skip.key] = min(skip.step, steps.get(skip.key, skip.step))


def read_skips(storage: Storage, folder: str) -> list[Skip]:
    """Every sample that the run has skipped so far, in the order of steps."""
    files = [entry.path for entry in storage.list(folder) if entry.path.endswith(".json")]
    skips = [Skip(**values) for path in files for values in storage.read_json(path)]
    return sorted(skips, key=lambda skip: (skip.step, skip.key))
