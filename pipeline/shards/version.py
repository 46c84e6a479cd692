"""From the version before, the source's files and the shards just written to the next version."""

import io
from collections import Counter
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.ingest.image import PROCESSING
from pipeline.ingest.problems import fixes
from pipeline.shards.index import to_parquet
from pipeline.shards.manifest import (
    DatasetRef,
    Manifest,
    Shard,
    dataset_folder,
    latest_version,
    load_manifest,
    shard_path,
)
from pipeline.shards.plan import Origin, read_origins
from pipeline.shards.write import WrittenShard
from pipeline.storage import Storage, sha256

REMOVED_SCHEMA = pa.schema({"shard": pa.string(), "key": pa.string()})
QUARANTINE_SCHEMA = pa.schema({field: pa.string() for field in ("path", "key", "reason", "detail")})


@dataclass(frozen=True)
class Before:
    """The version that an ingest starts from; empty for the first, or when the pixels are made otherwise."""

    dataset: DatasetRef | None = None
    shards: list[Shard] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    removed: set[tuple[str, str]] = field(default_factory=set)  # (shard, key)


def read_before(storage: Storage, name: str, data: Data) -> Before:
    dataset = latest_version(storage, name)
    if dataset is None:
        return Before()
    manifest = load_manifest(storage, dataset)
    if not made_alike(manifest, data):
        return Before()
    removed = pq.read_table(io.BytesIO(storage.read(f"{dataset.folder}/removed.parquet"))).to_pylist()
    # A shard that somebody deleted, because it was damaged for instance: its images are written anew.
    stored = {entry.path for entry in storage.list(f"{dataset_folder(name)}/shards")}
    lost = {
        shard.sha256
        for shard in manifest.shards
        if not {shard_path(name, shard.sha256, "tar"), shard_path(name, shard.sha256, "parquet")} <= stored
    }
    return Before(
        dataset,
        [shard for shard in manifest.shards if shard.sha256 not in lost],
        manifest.classes,
        [origin for origin in read_origins(storage, dataset) if origin.shard not in lost],
        {(row["shard"], row["key"]) for row in removed if row["shard"] not in lost},
    )


def made_alike(manifest: Manifest, data: Data) -> bool:
    """Whether a version's pixels and split are what these keys would make of the same files."""
    made = (manifest.resolution, manifest.channels, manifest.encoding, manifest.processing)
    return made == (data.resolution, data.channels, data.encoding, processing(data))


def processing(data: Data) -> dict:
    """Whatever, beside the files, decides on a dataset's pixels, on which files it takes, and on its split."""
    taken = {"fixed": list(fixes(data.problems)), "min_side": data.min_side, "max_aspect": data.max_aspect}
    quality = {"quality": data.quality} if data.encoding == "jpeg" else {}
    return {**PROCESSING, **quality, "background": data.background, "held_out": data.held_out, **taken}


def class_names(before: Before, origins: list[Origin]) -> list[str]:
    """Classes keep their numbers, which old shards hold; new ones come after them, sorted."""
    return before.classes + sorted(_labels(origins) - set(before.classes))


def has_lost_a_class(before: Before, origins: list[Origin]) -> bool:
    """Then every image is written anew: a class without images would be trained on nothing."""
    return not set(before.classes) <= _labels(origins)


def _labels(origins: list[Origin]) -> set[str]:
    return {o.label for o in origins if o.label is not None and o.status in ("new", "kept")}


def settle(origins: list[Origin], written: list[WrittenShard]) -> list[Origin]:
    """The origins once the new images have been tried: each is kept, a duplicate or quarantined."""
    rejected = {sample.key: sample for result in written for sample in result.rejected}
    shard_of = {key: result.shard.sha256 for result in written if result.shard for key in result.keys}
    settled = []
    for origin in origins:
        if origin.status in ("new", "duplicate") and origin.key in rejected:
            why = rejected[origin.key]
            origin = replace(origin, status="quarantined", reason=why.reason, detail=why.detail)
        elif origin.status == "new":
            origin = replace(origin, status="kept", shard=shard_of[origin.key])
        settled.append(origin)
    return sorted(settled, key=lambda origin: origin.path)


def assemble(
    before: Before, data: Data, classes: list[str], origins: list[Origin], written: list[WrittenShard]
) -> tuple[Manifest, dict[str, bytes]]:
    """The next manifest and its tables by name. Old shards stay as they are; what left is hidden in them."""
    kept = [origin for origin in origins if origin.status == "kept"]
    here = {(origin.shard, origin.key) for origin in kept}
    were = {(origin.shard, origin.key) for origin in before.origins if origin.status == "kept"}
    removed = sorted((were | before.removed) - here)
    hidden = Counter(shard for shard, _ in removed)
    every = {shard.sha256: shard for shard in [*before.shards, *(r.shard for r in written if r.shard)]}
    # In the order of their names, so that the digest does not tell in which order they came.
    shards = [replace(every[sha], removed=hidden[sha]) for sha in sorted(every) if hidden[sha] < every[sha].samples]
    alive = {shard.sha256 for shard in shards}
    removed_table = _table([{"shard": s, "key": k} for s, k in removed if s in alive], REMOVED_SCHEMA)
    per_class = Counter(origin.label for origin in kept)
    assert data.resolution is not None and data.channels is not None
    manifest = Manifest(
        resolution=data.resolution,
        channels=data.channels,
        encoding=data.encoding,
        processing=processing(data),
        classes=classes,
        samples={
            split: sum(shard.samples - shard.removed for shard in shards if shard.split == split)
            for split in ("train", "held_out")
        },
        class_counts=[per_class[label] for label in classes],
        shards=shards,
        removed_sha256=sha256(removed_table),
        parent=before.dataset.digest if before.dataset else None,
    )
    refused = [
        {name: getattr(origin, name) for name in QUARANTINE_SCHEMA.names}
        for origin in origins
        if origin.status == "quarantined"
    ]
    return manifest, {"quarantine": _table(refused, QUARANTINE_SCHEMA), "removed": removed_table}


def _table(rows: list[dict], schema: pa.Schema) -> bytes:
    return to_parquet(pa.Table.from_pylist(rows, schema=schema))
