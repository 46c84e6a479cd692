"""The shard stage: a source of images to a committed dataset version, its work spread over Ray tasks.

Three steps. PREPARE reads what is new, a chunk of neighbours a task. PLAN decides what each new shard holds. SHARD
writes them, one a task. Tasks hold a chunk or a shard in memory, this process what DuckDB is given: whatever the
source's size. A source that grew gets new shards for its new images alone; one that shrank hides what is gone; one
that did not change costs a listing, and no Ray.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.errors import RunFailed, UserError
from pipeline.ingest.problems import check_shares
from pipeline.on_ray import TRIES, Died, cluster, insisting, run_tasks
from pipeline.progress import Progress, note, report
from pipeline.shards.alone import alone
from pipeline.shards.chunks import Chunk, chunks_of
from pipeline.shards.forgotten import forgotten_keys
from pipeline.shards.hostile import surviving
from pipeline.shards.job import Job, make_job
from pipeline.shards.listing import write_listing
from pipeline.shards.manifest import Shard, commit_version
from pipeline.shards.parts import PREPARED_SCHEMA, part_path, parts_folder
from pipeline.shards.plan import Division, choose, compare, divide, place, shard_plans, take_before, unread
from pipeline.shards.prepare import prepare_chunk
from pipeline.shards.store import Stored
from pipeline.shards.stored import write_stored
from pipeline.shards.tables import Tables
from pipeline.shards.version import Contents, Outcome, assemble, conclude, read_before, settle
from pipeline.shards.write import write_shard
from pipeline.storage import Storage

_ROWS = 50_000  # of what became of files that are held in memory


@dataclass(frozen=True)
class Ingest(Contents):
    """What one ingest found and did."""

    channels: int
    shards_written: int
    shards_reused: int


def shard_images(
    storage: Storage, name: str, data: Data, *, compact: bool = False, rebuild: bool = False, rehash: bool = False
) -> Ingest:
    """Brings the dataset `name` up to date with `data.source`.

    `compact` merges shards that have lost most of their images, or never had many; `rebuild` begins as if there were
    no version before; `rehash` opens files whose size and time are what they were too.

    Raises UserError for a source that is missing, empty, or holds no valid image; nothing is committed then.
    """
    assert data.resolution is not None and data.channels is not None
    job = make_job(storage, name, data)
    with alone(storage, name) as (scratch, held), Tables(scratch) as tables:
        files = write_listing(job.source.items(), listing := scratch / "listing.parquet")
        before = read_before(storage, name, data, scratch, rebuild)
        take_before(tables, [shard.sha256 for shard in before.shards], before.sources, before.removed)
        prepared, parts = _prepare(job, tables, compare(tables, listing, rehash), rehash)

        classes = choose(tables, prepared, before.classes, forgotten_keys(storage, name))
        copied = place(tables, data.shard_images / 2 if compact else 0)
        stored = scratch / "stored.parquet"
        write_stored(storage, name, [(number, before.shards[number]) for number in copied], stored)
        planned, division = divide(tables, stored, classes, data.held_out, data.shard_images)
        written = _write(job, planned, division, parts, before.shards)

        shards = settle(tables, before, planned, division, [result.shard for result in written])
        outcome = conclude(tables, shards)
        _refuse_if_empty(data.source, outcome)
        check_shares(outcome.quarantined, files, data.problems)
        manifest = assemble(tables, before, data, classes, shards, outcome)
        same = before.dataset is not None and before.dataset.digest == manifest.digest
        if before.dataset and same and cmp(before.sources, outcome.tables["sources"], shallow=False):
            dataset = before.dataset
        else:
            held.check()
            dataset = commit_version(storage, name, manifest, outcome.tables)
        # Of this ingest, and of others that died: nobody else is at work here.
        storage.delete_folder(parts_folder(name))
    fresh = sum(not result.reused for result in written)
    return Ingest(
        dataset=dataset,
        samples=manifest.samples,
        classes=classes,
        channels=manifest.channels,
        shards_written=fresh,
        shards_reused=len(manifest.shards) - fresh,
        quarantined=outcome.quarantined,
        duplicates=outcome.duplicates,
    )


def _prepare(job: Job, tables: Tables, total: int, rehash: bool) -> tuple[Path, list[str]]:
    """Reads the unread files: what became of each, and the paths of the parts by the numbers that are used there."""
    parts, done = list[str](), 0
    to = tables.folder / "prepared.parquet"
    with pq.ParquetWriter(to, PREPARED_SCHEMA, use_dictionary=["mode", "reason"]) as writer:
        if not total:
            return to, parts
        finished = {entry.path for entry in job.storage.list(parts_folder(job.name))}
        chunks = _counted(chunks_of(job, unread(tables), total, finished, rehash))
        waiting = list[pa.Table]()
        report(Progress("prepare", 0, total))
        with cluster():
            for part, table in surviving(run_tasks, prepare_chunk, job, chunks):
                number = pa.array([len(parts)] * len(table), pa.int32())
                waiting.append(table.add_column(1, "part", pc.if_else(table["offset"].is_valid(), number, None)))
                parts.append(part_path(job.name, part))
                done += len(table)
                report(Progress("prepare", done, total))
                if sum(map(len, waiting)) >= _ROWS:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
        writer.write_table(pa.concat_tables([PREPARED_SCHEMA.empty_table(), *waiting]))
    return to, parts


def _counted(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    reused = 0
    for chunk in chunks:
        reused += len(chunk.rows) if chunk.finished else 0
        yield chunk
    if reused:
        note(f"{reused:,} images were prepared by an ingest that was interrupted; they are not read again")


def _write(job: Job, planned: Path, division: Division, parts: list[str], old: list[Shard]) -> list[Stored]:
    """Writes each planned shard; results in the plan's order."""
    written, done, total = list[Stored](), 0, division.held_out + division.train
    if not total:
        return written
    report(Progress("shard", 0, total))
    with cluster():
        plans = shard_plans(job.name, planned, division, parts, old)
        for result in insisting(run_tasks, write_shard, job, plans):
            written.append(_alive(result))
            done += written[-1].shard.samples
            report(Progress("shard", done, total))
    return written


def _alive(result: Stored | Died) -> Stored:
    if isinstance(result, Died):
        raise RunFailed(
            f"the task that writes a shard of {len(result.argument.rows):,} images died {TRIES} times;"
            " it may need more memory than there is: lower data.shard_images"
        )
    return result


def _refuse_if_empty(source: str, outcome: Outcome) -> None:
    if not outcome.kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in outcome.quarantined.items())
        raise UserError(f"{source} holds no valid image ({reasons}); check what the files are")
