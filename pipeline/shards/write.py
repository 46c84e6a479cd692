"""One shard of an ingest: encoded images gathered from where they lie, and stored."""

import hashlib
from dataclasses import dataclass

import pyarrow as pa

from pipeline.shards.encoding import suffix
from pipeline.shards.gather import Row, gather
from pipeline.shards.job import Job
from pipeline.shards.manifest import Split
from pipeline.shards.store import Encoded, Stored, store_shard

PLANNED_SCHEMA = pa.schema(  # the fields of a Row
    {
        "key": pa.string(),
        "label": pa.int32(),
        "file": pa.dictionary(pa.int32(), pa.string()),
        "offset": pa.int64(),
        "size": pa.int64(),
        "crc32": pa.uint32(),
    }
)


@dataclass(frozen=True)
class ShardPlan:
    """The images of one shard and where they are to be had."""

    split: Split
    rows: pa.Table  # of PLANNED_SCHEMA: a tenth of what it takes to send as many Rows


def content_key(data: bytes) -> str:
    """The key of an image, 32 hex digits over its file's bytes: its name, its place, and its side of the split."""
    return hashlib.blake2b(data, digest_size=16, key=b"ganline-order-1").hexdigest()


def is_held_out(key: str, share: float) -> bool:
    """By content alone, so that an image never changes sides."""
    return int(key[:8], 16) < share * 2**32


def write_shard(job: Job, plan: ShardPlan) -> Stored:
    """Writes the planned images, in key order, unless the same shard is there already.

    Raises RunFailed for a file that they are taken from and that is missing or damaged.
    """
    columns = (plan.rows[name].to_pylist() for name in PLANNED_SCHEMA.names)
    rows, side = sorted(map(Row, *columns), key=lambda row: row.key), job.rules.resolution
    images = [
        Encoded(row.key, row.label, data, side, side) for row, data in zip(rows, gather(job.storage, rows), strict=True)
    ]
    return store_shard(job.storage, job.name, plan.split, suffix(job.encoding), images)
