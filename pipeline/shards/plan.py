"""What an ingest has to do, found by DuckDB out of core: what is unread, what is a copy, what each new shard holds.

Each step is a table on disk. The outcome depends on the content of the images alone, never on the order in which
they were listed, and memory is bounded however many there are.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ingest.image import unknown_format
from pipeline.shards.forgotten import REASON as FORGOTTEN
from pipeline.shards.manifest import Shard, Split, shard_path
from pipeline.shards.tables import Tables, in_pieces
from pipeline.shards.write import PLANNED_SCHEMA, ShardPlan

BY_PATH = "by-path.parquet"  # the listing in the order of paths, a row for each id from 0 on

_ROWS = 20_000  # held in memory

# Keys are held as UUIDs: 16 bytes that sort as their 32 hex digits do. Shards are held by their number in `shards`.
_BEFORE = """
CREATE MACRO hex(key) AS replace(key::VARCHAR, '-', '');
CREATE TABLE shards AS SELECT * FROM given;
CREATE VIEW before AS
    SELECT path, stamp, key::UUID AS key, label, status, reason, detail, number AS shard, bytes, width, height, mode
    FROM read_parquet({sources}) b LEFT JOIN shards s ON b.shard = s.sha256
    WHERE status <> 'kept' OR number IS NOT NULL;
CREATE TABLE hidden AS
    SELECT number AS shard, key::UUID AS key FROM read_parquet({removed}) r JOIN shards s ON r.shard = s.sha256;
"""

# What is known of a content: the shard that holds it under a class, or (no shard) why it is refused. What could not
# be read is tried again: a permission given since does not change the stamp. So is what was of no format that an
# earlier Ganline knew.
_SETTLED = """
CREATE TABLE settled AS
    SELECT key, shard, label, '' AS reason, '' AS detail, bytes, width, height, mode FROM before WHERE status = 'kept'
    UNION ALL
    SELECT key, NULL, NULL, min(reason), min(detail), max(bytes), max(width), max(height), max(mode)
    FROM before WHERE status = 'quarantined' AND reason <> 'unreadable'
        AND NOT (detail LIKE 'none of %' AND detail <> {unknown})
    GROUP BY key;
"""

# `id` numbers the files by path. A file with the stamp that it had need not be opened, if what it holds is settled.
_BY_PATH = (
    "SELECT path, label, stamp, size, file_row_number AS place FROM read_parquet({listing}, file_row_number = true)"
)
_LISTING = """
CREATE VIEW listing AS
    SELECT file_row_number AS id, path, label, stamp, size, place FROM read_parquet({by_path}, file_row_number = true);
CREATE TABLE files AS
    SELECT l.id, l.label, b.key FROM listing l JOIN before b ON b.path = l.path AND b.stamp = l.stamp
    WHERE NOT {rehash} AND l.stamp <> '' AND b.reason <> 'unreadable' AND b.key IN (SELECT key FROM settled);
CREATE TABLE unread AS SELECT id, path, stamp, size, place FROM listing ANTI JOIN files USING (id);
"""

_UNREAD = """
SELECT u.id, u.path, u.stamp, u.size, hex(s.key) AS known
FROM unread u LEFT JOIN before b ON b.path = u.path AND b.reason <> 'unreadable' LEFT JOIN settled s ON s.key = b.key
ORDER BY u.place
"""

_FORGOTTEN = """
CREATE TABLE forgotten AS SELECT key::UUID AS key, {reason} AS reason, {detail} AS detail FROM given;
"""

_PREPARED = """
CREATE VIEW prepared AS SELECT * REPLACE (key::UUID AS key) FROM read_parquet({prepared});
INSERT INTO files SELECT id, label, key FROM prepared JOIN listing USING (id);
CREATE TABLE encoded AS SELECT key, min(id) AS id FROM prepared WHERE part IS NOT NULL GROUP BY key;
CREATE TABLE candidates AS
    SELECT f.key, f.id, s.shard AS was, s.shard IS NOT NULL AND f.label IS NOT DISTINCT FROM s.label AS same
    FROM files f LEFT JOIN settled s ON s.key = f.key;
"""

# Of equal files the one whose class was kept before stays, else the first by path.
_CHOSEN = """
CREATE OR REPLACE TABLE grouped AS
    SELECT key, any_value(was) AS was, min(id) FILTER (same AND NOT {anew}) AS stays, min(id) AS first
    FROM candidates GROUP BY key;
CREATE OR REPLACE TABLE chosen AS
    SELECT key, was, stays IS NOT NULL AS stays, coalesce(stays, first) AS id
    FROM grouped WHERE (was IS NOT NULL OR key IN (SELECT key FROM encoded)) AND key NOT IN (SELECT key FROM forgotten);
"""

_PLACED = """
CREATE TABLE placed AS SELECT key, c.id, label, was, stays FROM chosen c JOIN listing USING (id);
UPDATE placed SET stays = false WHERE stays AND was IN (
    SELECT was FROM placed WHERE stays GROUP BY was HAVING count(*) < {fewest});
"""

_PLANNED = """
SELECT hex(p.key) AS key, coalesce(n.number, -1)::INTEGER AS label, p.part, p.shard, p."offset", p.size, p.crc32
FROM (
    SELECT key, label, r.part, NULL::INTEGER AS shard, r."offset", r.size, r.crc32
    FROM placed JOIN encoded e USING (key) JOIN prepared r ON r.id = e.id WHERE NOT stays AND was IS NULL
    UNION ALL
    SELECT p.key, label, NULL, s.shard, s."offset", s.size, s.crc32
    FROM placed p JOIN read_parquet({stored}) s ON s.shard = was AND s.key::UUID = p.key WHERE NOT stays
) p LEFT JOIN given n ON n.label = p.label
ORDER BY p.key
"""


@dataclass(frozen=True)
class Division:
    """How images in key order are cut into shards: those held out, whose keys are the lowest, apart."""

    held_out: int
    train: int
    shard_images: int

    def shards(self) -> list[tuple[Split, int]]:
        """The split of each shard and how many images it takes."""
        sides: list[tuple[Split, int]] = [("held_out", self.held_out), ("train", self.train)]
        return [
            (split, min(self.shard_images, count - at))
            for split, count in sides
            for at in range(0, count, self.shard_images)
        ]


def take_before(tables: Tables, shards: list[str], sources: Path, removed: Path) -> None:
    """`shards` are the names of those of the version before that can be reused; the others are its tables."""
    numbers = pa.array(range(len(shards)), pa.int32())
    tables.run(_BEFORE, pa.table({"number": numbers, "sha256": pa.array(shards, pa.string())}),
               sources=sources, removed=removed)  # fmt: skip
    tables.run(_SETTLED, unknown=unknown_format())


def compare(tables: Tables, listing: Path, rehash: bool = False) -> int:
    """How many files of the listing have to be opened."""
    tables.copy(f"{_BY_PATH} ORDER BY path, place", to := tables.folder / BY_PATH, listing=listing)
    _drop_repeats(to)
    tables.run(_LISTING, by_path=to, rehash=rehash)
    return tables.one("SELECT count(*) FROM unread")


def _drop_repeats(by_path: Path) -> None:
    """Of a file that a list names more than once, the first stays."""
    if not any(pc.any(again).as_py() for _, again in _repeats(by_path, ["path"])):
        return
    once = by_path.with_name("once.parquet")
    with pq.ParquetWriter(once, pq.read_schema(by_path)) as writer:
        for batch, again in _repeats(by_path, None):
            writer.write_batch(batch.filter(pc.invert(again)))
    once.replace(by_path)


def _repeats(by_path: Path, columns: list[str] | None) -> Iterator[tuple[pa.RecordBatch, pa.BooleanArray]]:
    """Batches of these columns, and which rows have the path of the row before."""
    with in_pieces(by_path) as file:
        last = pa.nulls(1, pa.string())
        for batch in file.iter_batches(_ROWS, columns=columns):
            paths = batch["path"]
            yield batch, pc.fill_null(pc.equal(paths, pa.concat_arrays([last, paths[:-1]])), False)
            last = paths[-1:]


def unread(tables: Tables) -> Iterator[pa.RecordBatch]:
    """These files in the source's order: id, path, stamp, size, and the key that an earlier content is known by."""
    tables.copy(_UNREAD, to := tables.folder / "unread.parquet")
    with in_pieces(to) as file:
        yield from file.iter_batches(_ROWS)


def choose(tables: Tables, prepared: Path, before: list[str], forgotten: Set[str] = frozenset()) -> list[str]:
    """Which file stands for each content; returns the classes. What is `forgotten`, by key, stays out.

    Classes keep their numbers, which old shards hold; new ones come after them, sorted. If one is lost, all
    images are placed anew: a class without images would be trained on nothing.
    """
    keys = pa.table({"key": pa.array(sorted(forgotten), pa.string())})
    tables.run(_FORGOTTEN, keys, reason=FORGOTTEN, detail="it was removed with `ganline forget`")
    tables.run(_PREPARED, prepared=prepared)
    tables.run(_CHOSEN, anew=False)
    labels = _labels(tables)
    if not set(before) <= labels:
        tables.run(_CHOSEN, anew=True)
        before, labels = [], _labels(tables)
    return before + sorted(labels - set(before))


def _labels(tables: Tables) -> set[str]:
    found = tables.rows("SELECT DISTINCT label FROM chosen JOIN listing USING (id) WHERE label IS NOT NULL")
    return {label for (label,) in found}


def place(tables: Tables, fewest: float) -> list[int]:
    """Which images go to new shards; those of shards that keep fewer than `fewest` too.

    Returns the numbers of the old shards that some of them are copied from.
    """
    tables.run(_PLACED, fewest=fewest)
    found = tables.rows("SELECT DISTINCT was FROM placed WHERE NOT stays AND was IS NOT NULL ORDER BY was")
    return [number for (number,) in found]


def divide(
    tables: Tables, stored: Path, classes: list[str], held_out: float, shard_images: int
) -> tuple[Path, Division]:
    """The images that go to new shards in key order, a file of columns key, label, part, shard, offset, size, crc32.

    `stored` is the index of the old shards that some come from. `part` is the number of a chunk, `shard` that of an
    old shard; the other is null.
    """
    names = pa.table({"label": pa.array(classes, pa.string()), "number": pa.array(range(len(classes)), pa.int32())})
    tables.copy(_PLANNED, to := tables.folder / "planned.parquet", names, stored=stored)
    below = f"{ceil(held_out * 2**32):08x}"  # as is_held_out has it
    total = tables.one("SELECT count(*) FROM placed WHERE NOT stays")
    apart = tables.one("SELECT count(*) FROM read_parquet({planned}) WHERE key < '" + below + "'", planned=to)
    assert pq.read_metadata(to).num_rows == total, "an index lacks an image that the sources name"
    return to, Division(apart, total - apart, shard_images)


def shard_plans(
    name: str, planned: Path, division: Division, parts: list[str], old: list[Shard]
) -> Iterator[ShardPlan]:
    """What `divide` wrote, shard by shard. `parts` are paths by number, `old` the shards before by number."""
    paths = pa.array(parts, pa.string())
    tars = pa.array([shard_path(name, shard.sha256, "tar") for shard in old], pa.string())
    with in_pieces(planned) as file:
        batches = file.iter_batches(_ROWS)
        waiting = file.schema_arrow.empty_table()
        for split, count in division.shards():
            while len(waiting) < count:
                waiting = pa.concat_tables([waiting, pa.Table.from_batches([next(batches)])])
            taken, waiting = waiting.slice(0, count).combine_chunks(), waiting.slice(count)
            files = pc.coalesce(paths.take(taken["part"]), tars.take(taken["shard"])).dictionary_encode()
            yield ShardPlan(split, taken.append_column("file", files).select(PLANNED_SCHEMA.names).cast(PLANNED_SCHEMA))
