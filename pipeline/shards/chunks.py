"""A source's unread files in chunks, one a task."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.image import PROCESSING
from pipeline.shards.job import Job
from pipeline.shards.parts import part_path

_LEAST, _CHUNKS = 1000, 64  # files a chunk in a small source; chunks in a large one, while memory allows
_MOST_PIXELS = 64 << 20  # bytes of the pixels that a chunk holds
_MOST_READ = 512 << 20  # bytes of the source's files a chunk: they are read one by one, but a task should end


@dataclass(frozen=True)
class Chunk:
    """Files to read: neighbours in the source's own order. `finished`: their part is there.

    Columns of `rows`: the `id` of each, its `path`, and as `known` the key under which an earlier content of it is
    dealt with already, or null: the same content is not decoded again.
    """

    digest: str
    rows: pa.Table  # Ray sends of a table what it shows; a slice of a batch would take the whole batch along
    finished: bool = False

    @property
    def paths(self) -> list[str]:
        return self.rows["path"].to_pylist()


def chunks_of(
    job: Job, unread: Iterable[pa.RecordBatch], total: int, finished: set[str], rehash: bool
) -> Iterator[Chunk]:
    """Of `total` rows (id, path, stamp, size, known). `finished` are the paths of parts in storage."""
    pixels = job.rules.resolution**2 * job.rules.channels
    most = min(max(_LEAST, total // _CHUNKS), max(1, _MOST_PIXELS // pixels))
    how = [PROCESSING, asdict(job.rules), job.encoding, job.quality, job.origin, rehash]
    for rows in _cut(unread, most):
        # Over all that decides on what the part holds. As text: Arrow's bytes tell how the rows were sliced, too.
        given = [how, *(rows[name].to_pylist() for name in ("path", "stamp", "known"))]
        digest = blake2b(json.dumps(given).encode(), digest_size=16).hexdigest()
        table = pa.Table.from_batches([rows.select(["id", "path", "known"])])
        yield Chunk(digest, table, part_path(job.name, digest) in finished)


def _cut(unread: Iterable[pa.RecordBatch], most: int) -> Iterator[pa.RecordBatch]:
    waiting = list[pa.RecordBatch]()
    for batch in unread:
        rest = pa.concat_batches([*waiting, batch]) if waiting else batch
        while (count := _fits(rest, most)) < len(rest):
            yield rest.slice(0, count)
            rest = rest.slice(count)
        waiting = [rest]
    yield from waiting


def _fits(rows: pa.RecordBatch, most: int) -> int:
    """How many of the first rows go into a chunk: one at least."""
    read = pc.cumulative_sum(rows["size"].slice(0, most))
    return max(1, pc.sum(pc.less_equal(read, _MOST_READ)).as_py())
