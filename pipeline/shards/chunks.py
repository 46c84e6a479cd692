"""A source's unread files in chunks, one a task."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b

import pyarrow as pa

from pipeline.ingest.image import PROCESSING
from pipeline.shards.job import Job
from pipeline.shards.parts import part_path

_LEAST, _CHUNKS = 500, 64  # files a chunk in a small source; chunks in a large one, while memory allows
_MOST_PIXELS = 64 << 20  # bytes of the pixels that a chunk holds
_MOST_READ = 512 << 20  # bytes of the source's files a chunk: they are read one by one, but a task should end


@dataclass(frozen=True)
class Chunk:
    """Files to read: neighbours in the source's own order.

    `known` are the keys under which earlier contents of these paths are dealt with already, or None: the same
    content is not decoded again. `finished`: its part is there.
    """

    digest: str
    ids: list[int]
    paths: list[str]
    known: list[str | None]
    finished: bool = False


def chunks_of(
    job: Job, unread: Iterable[pa.RecordBatch], total: int, finished: set[str], rehash: bool
) -> Iterator[Chunk]:
    """Of `total` rows (id, path, stamp, size, known). `finished` are the paths of parts in storage."""
    pixels = job.rules.resolution**2 * job.rules.channels
    most = min(max(_LEAST, total // _CHUNKS), max(1, _MOST_PIXELS // pixels))
    for rows in _cut(unread, most):
        ids, paths, stamps, _, known = map(list, zip(*rows, strict=True))
        # Over all that decides on what the part holds.
        how = [PROCESSING, asdict(job.rules), job.encoding, job.quality, job.origin, rehash]
        digest = blake2b(json.dumps([how, paths, stamps, known]).encode(), digest_size=16).hexdigest()
        yield Chunk(digest, ids, paths, known, part_path(job.name, digest) in finished)


def _cut(unread: Iterable[pa.RecordBatch], most: int) -> Iterator[list[tuple]]:
    rows, read = list[tuple](), 0
    for batch in unread:
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if rows and (len(rows) == most or read + row[3] > _MOST_READ):
                yield rows
                rows, read = [], 0
            rows.append(row)
            read += row[3]
    if rows:
        yield rows
