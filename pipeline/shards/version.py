"""From the version before, the source's files and the shards just written to the next version."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.ingest.image import PROCESSING
from pipeline.ingest.problems import fixes
from pipeline.shards.manifest import (
    DatasetRef,
    Manifest,
    Shard,
    dataset_folder,
    latest_version,
    load_manifest,
    shard_path,
)
from pipeline.shards.plan import BY_PATH, Division
from pipeline.shards.tables import Tables, publish
from pipeline.storage import Storage, sha256

# A row a file of the source. `status`: kept, duplicate or quarantined (for `reason`). `width` and `height` are those
# of the source image, upright, and `mode` is Pillow's name for its pixels; 0 and empty where they are not known.
SOURCES_SCHEMA = pa.schema(
    {
        **{name: pa.string() for name in ("path", "stamp", "key", "label", "status", "reason", "detail", "shard")},
        "bytes": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mode": pa.string(),
    }
)
REMOVED_SCHEMA = pa.schema({"shard": pa.string(), "key": pa.string()})
QUARANTINE_SCHEMA = pa.schema({name: pa.string() for name in ("path", "key", "reason", "detail")})

_GROUP = 1 << 16  # rows of a table's row group
_REPEATING = ("label", "status", "reason", "detail", "shard", "width", "height", "mode")  # of the sources' columns
_REMOVED_GROUP = 1 << 20  # goes into the digest of versions

_KEPT = """
INSERT INTO shards SELECT DISTINCT number, sha256 FROM given WHERE number NOT IN (SELECT number FROM shards);
CREATE TABLE made AS
    SELECT p.key::UUID AS key, g.number AS shard
    FROM (
        SELECT key, CASE
            WHEN file_row_number < {held_out} THEN file_row_number // {shard_images}
            ELSE {held_out_shards} + (file_row_number - {held_out}) // {shard_images}
        END AS planned FROM read_parquet({planned}, file_row_number = true)
    ) p JOIN given g USING (planned);
CREATE TABLE kept AS
    SELECT p.key, p.id, p.label, coalesce(m.shard, p.was) AS shard FROM placed p LEFT JOIN made m USING (key);
CREATE TABLE gone AS
    SELECT o.shard, o.key
    FROM (SELECT shard, key FROM before WHERE status = 'kept' UNION ALL SELECT shard, key FROM hidden) o
    LEFT JOIN kept k ON k.key = o.key AND k.shard = o.shard WHERE k.key IS NULL;
"""

# One join at a time keeps to the memory that there is. The row of each file comes in the order of `id`.
_FATES = """
CREATE TABLE known AS
    SELECT f.id, f.key, k.id AS stands, k.shard FROM files f LEFT JOIN kept k ON k.key = f.key;
CREATE TABLE fates AS
    SELECT k.id, k.key, k.stands, k.shard, coalesce(f.reason, s.reason) AS reason,
        coalesce(f.detail, s.detail) AS detail, s.bytes, s.width, s.height, s.mode
    FROM known k LEFT JOIN settled s ON s.key = k.key LEFT JOIN forgotten f ON f.key = k.key;
"""
_SOURCES = """
SELECT hex(f.key) AS key,
    CASE WHEN stands = f.id THEN 'kept' WHEN stands IS NOT NULL THEN 'duplicate' ELSE 'quarantined' END AS status,
    CASE WHEN stands IS NULL THEN coalesce(nullif(r.reason, ''), f.reason) ELSE '' END AS reason,
    CASE WHEN stands IS NULL THEN coalesce(nullif(r.detail, ''), f.detail) ELSE '' END AS detail,
    CASE WHEN stands = f.id THEN sha256 ELSE '' END AS shard,
    coalesce(r.bytes, f.bytes) AS bytes, coalesce(nullif(r.width, 0), f.width, 0) AS width,
    coalesce(nullif(r.height, 0), f.height, 0) AS height, coalesce(nullif(r.mode, ''), f.mode, '') AS mode
FROM fates f LEFT JOIN shards ON number = f.shard LEFT JOIN prepared r ON r.id = f.id
ORDER BY f.id
"""

_QUARANTINE = "SELECT path, key, reason, detail FROM sources WHERE status = 'quarantined' ORDER BY path"

_REMOVED = """
SELECT sha256 AS shard, hex(key) AS key FROM gone JOIN shards ON number = shard JOIN given USING (sha256)
ORDER BY sha256, key
"""


@dataclass(frozen=True)
class Contents:
    """A version and what there is in it. `samples` by split, `quarantined` by reason."""

    dataset: DatasetRef
    samples: dict[str, int]
    classes: list[str]
    quarantined: dict[str, int]
    duplicates: int


@dataclass(frozen=True)
class Before:
    """The version that an ingest starts from; none for the first, or when the pixels are made otherwise.

    `parent` is the version that it follows all the same; `sources` and `removed` are its tables on local disk.
    """

    sources: Path
    removed: Path
    dataset: DatasetRef | None = None
    shards: list[Shard] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    parent: DatasetRef | None = None


def read_before(storage: Storage, name: str, data: Data, scratch: Path, rebuild: bool = False) -> Before:
    """With `rebuild` nothing of the version before is used."""
    dataset = latest_version(storage, name)
    sources, removed = scratch / "before.parquet", scratch / "hidden.parquet"
    manifest = load_manifest(storage, dataset) if dataset else None
    alike = manifest is not None and made_alike(manifest, data)
    if dataset and alike:
        storage.download(f"{dataset.folder}/sources.parquet", sources)
        storage.download(f"{dataset.folder}/removed.parquet", removed)
    # An earlier Ganline wrote down less of each file: then all are opened again.
    if not dataset or not manifest or not alike or rebuild or pq.read_schema(sources) != SOURCES_SCHEMA:
        pq.write_table(SOURCES_SCHEMA.empty_table(), sources)
        pq.write_table(REMOVED_SCHEMA.empty_table(), removed)
        return Before(sources, removed, parent=dataset if alike else None)
    # A shard that somebody deleted, because it was damaged for instance: its images are written anew.
    stored = {entry.path for entry in storage.list(f"{dataset_folder(name)}/shards")}
    shards = [
        shard
        for shard in manifest.shards
        if {shard_path(name, shard.sha256, "tar"), shard_path(name, shard.sha256, "parquet")} <= stored
    ]
    return Before(sources, removed, dataset, shards, manifest.classes, dataset)


def made_alike(manifest: Manifest, data: Data) -> bool:
    """Whether a version's pixels and split are what these keys would make of the same files."""
    made = (manifest.resolution, manifest.channels, manifest.encoding, manifest.processing)
    return made == (data.resolution, data.channels, data.encoding, processing(data))


def processing(data: Data) -> dict:
    """Whatever, beside the files, decides on a dataset's pixels, on which files it takes, and on its split."""
    quality = {"quality": data.quality} if data.encoding == "jpeg" else {}
    taken = {"fixed": list(fixes(data.problems)), "min_side": data.min_side, "max_aspect": data.max_aspect}
    return {**PROCESSING, **quality, "background": data.background, "held_out": data.held_out, **taken}


@dataclass(frozen=True)
class Outcome:
    """What became of the files: the tables of the next version on local disk, and counts."""

    tables: dict[str, Path]
    quarantined: dict[str, int]  # by reason
    duplicates: int
    kept: int


def settle(tables: Tables, before: Before, planned: Path, division: Division, written: list[Shard]) -> list[Shard]:
    """Writes down where each image is now; returns all shards that a reader of the next version needs.

    Old shards stay as they are; what left is hidden in them, and one that has nothing left is no part any more.
    """
    numbers = {shard.sha256: number for number, shard in enumerate(before.shards)}
    every = {shard.sha256: shard for shard in before.shards}
    for shard in written:
        numbers.setdefault(shard.sha256, len(numbers))
        every[shard.sha256] = shard
    made = pa.table(
        {
            "planned": pa.array(range(len(written)), pa.int32()),
            "number": pa.array([numbers[shard.sha256] for shard in written], pa.int32()),
            "sha256": pa.array([shard.sha256 for shard in written], pa.string()),
        }
    )
    tables.run(
        _KEPT, made, planned=planned, held_out=division.held_out, shard_images=division.shard_images,
        held_out_shards=-(-division.held_out // division.shard_images),
    )  # fmt: skip
    hidden = dict(tables.rows("SELECT sha256, count(*) FROM gone JOIN shards ON number = shard GROUP BY sha256"))
    # In the order of their names, so that the digest does not tell in which order they came.
    return [
        replace(every[sha], removed=hidden.get(sha, 0))
        for sha in sorted(every)
        if hidden.get(sha, 0) < every[sha].samples
    ]


def conclude(tables: Tables, shards: list[Shard]) -> Outcome:
    """Makes the tables of the next version, whose shards are these."""
    paths = {name: tables.folder / f"next-{name}.parquet" for name in ("sources", "quarantine", "removed")}
    alive = pa.table({"sha256": pa.array([shard.sha256 for shard in shards], pa.string())})
    rows = tables.folder / "rows.parquet"
    tables.run(_FATES)
    tables.copy(_SOURCES, rows)
    publish([tables.folder / BY_PATH, rows], paths["sources"], SOURCES_SCHEMA, _GROUP, _REPEATING)
    tables.run("CREATE VIEW sources AS FROM read_parquet({path})", path=paths["sources"])
    tables.copy(_QUARANTINE, rows)
    publish([rows], paths["quarantine"], QUARANTINE_SCHEMA, _GROUP)
    tables.copy(_REMOVED, rows, alive)
    publish([rows], paths["removed"], REMOVED_SCHEMA, _REMOVED_GROUP)
    counts = tables.rows("SELECT status, reason, count(*) FROM sources GROUP BY ALL ORDER BY 3 DESC, reason")
    status = Counter[str]()
    for name, _, count in counts:
        status[name] += count
    quarantined = {reason: count for name, reason, count in counts if name == "quarantined"}
    return Outcome(paths, quarantined, status["duplicate"], status["kept"])


def assemble(
    tables: Tables, before: Before, data: Data, classes: list[str], shards: list[Shard], outcome: Outcome
) -> Manifest:
    assert data.resolution is not None and data.channels is not None
    per_class = dict(tables.rows("SELECT label, count(*) FROM kept GROUP BY label"))
    return Manifest(
        resolution=data.resolution,
        channels=data.channels,
        encoding=data.encoding,
        processing=processing(data),
        classes=classes,
        samples={
            split: sum(shard.samples - shard.removed for shard in shards if shard.split == split)
            for split in ("train", "held_out")
        },
        class_counts=[per_class.get(label, 0) for label in classes],
        shards=shards,
        removed_sha256=sha256(outcome.tables["removed"].read_bytes()),
        parent=before.parent.digest if before.parent else None,
    )
