"""One shard: encoded images gathered and written as a WebDataset tar with its index.

The bytes depend on the samples alone: members come in key order with integer mtime 0 and no owner.
"""

import hashlib
from dataclasses import dataclass

from pipeline.shards.encoding import suffix
from pipeline.shards.gather import Row, gather
from pipeline.shards.index import same_rows, write_index
from pipeline.shards.job import Job
from pipeline.shards.manifest import Shard, Split, shard_path
from pipeline.shards.ustar import BLOCK, end, member
from pipeline.storage import sha256


@dataclass(frozen=True)
class ShardPlan:
    """The images of one shard and where they are to be had."""

    split: Split
    rows: list[Row]


@dataclass(frozen=True)
class WrittenShard:
    """`reused`: the tar was in storage already."""

    shard: Shard
    reused: bool


def content_key(data: bytes) -> str:
    """The key of an image, 32 hex digits over its file's bytes: its name, its place, and its side of the split."""
    return hashlib.blake2b(data, digest_size=16, key=b"ganline-order-1").hexdigest()


def is_held_out(key: str, share: float) -> bool:
    """By content alone, so that an image never changes sides."""
    return int(key[:8], 16) < share * 2**32


def write_shard(job: Job, plan: ShardPlan) -> WrittenShard:
    """Writes the planned images, in key order, unless the same shard is there already.

    Raises RunFailed for a file that they are taken from and that is missing or damaged.
    """
    rows = sorted(plan.rows, key=lambda row: row.key)
    kind, pieces, offsets, at = suffix(job.encoding), list[bytes](), list[int](), 0
    for row, data in zip(rows, gather(job.storage, rows), strict=True):
        if row.label >= 0:
            pieces += member(f"{row.key}.cls", str(row.label).encode())
            at += 2 * BLOCK
        head, _, padding = member(f"{row.key}.{kind}", data)
        pieces += (head, data, padding)
        offsets.append(at + BLOCK)
        at += BLOCK + len(data) + len(padding)
    pieces.append(end(at))
    side = job.rules.resolution
    return _publish(job, b"".join(pieces), {
        "key": [row.key for row in rows], "offset": offsets, "size": [row.size for row in rows],
        "crc32": [row.crc32 for row in rows], "label": [row.label for row in rows],
        "width": [side] * len(rows), "height": [side] * len(rows),
    }, plan.split)  # fmt: skip


def _publish(job: Job, tar_bytes: bytes, columns: dict[str, list], split: Split) -> WrittenShard:
    storage = job.storage
    index_bytes, name_of_tar = write_index(columns), sha256(tar_bytes)
    tar_path, index_path = (shard_path(job.name, name_of_tar, kind) for kind in ("tar", "parquet"))
    reused = storage.exists(tar_path) and storage.exists(index_path)
    if reused:
        # Another pyarrow may have put the same rows in other bytes, which manifests name: those stay.
        stored = storage.read(index_path)
        reused = same_rows(stored, columns)
        index_bytes = stored if reused else index_bytes
    if not reused:
        storage.write(index_path, index_bytes)
        storage.write(tar_path, tar_bytes)
    return WrittenShard(Shard(name_of_tar, sha256(index_bytes), split, len(columns["key"]), len(tar_bytes)), reused)
