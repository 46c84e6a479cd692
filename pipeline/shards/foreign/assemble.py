"""From the rows of every tar to a version: classes, duplicates, the split, the indexes, the manifest.

Two passes over the kept rows, a tar at a time; between them it holds 16 bytes of key and a few flags a sample.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.shards.foreign.find import FoundTar
from pipeline.shards.foreign.scan import Job, read_scan
from pipeline.shards.index import FOREIGN_SCHEMA, to_parquet
from pipeline.shards.manifest import FOREIGN, Manifest, Shard, Split, index_path
from pipeline.shards.version import QUARANTINE_SCHEMA, REMOVED_SCHEMA, processing
from pipeline.shards.write import is_held_out
from pipeline.storage import sha256

SOURCES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "stamp", "key", "label", "status", "reason", "detail", "shard")),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
    ]
)

_KEPT, _DUPLICATE, _QUARANTINED = 0, 1, 2
_STATUS = ("kept", "duplicate", "quarantined")


@dataclass(frozen=True)
class Assembled:
    manifest: Manifest
    tables: dict[str, bytes]
    quarantined: dict[str, int]
    duplicates: int


@dataclass
class _Tables:
    """Of a version, written a tar at a time."""

    sources: io.BytesIO = field(default_factory=io.BytesIO)
    quarantine: io.BytesIO = field(default_factory=io.BytesIO)

    def __post_init__(self) -> None:
        self._writers = (
            (pq.ParquetWriter(self.sources, SOURCES_SCHEMA, compression="zstd"), SOURCES_SCHEMA),
            (pq.ParquetWriter(self.quarantine, QUARANTINE_SCHEMA, compression="zstd"), QUARANTINE_SCHEMA),
        )

    def add(self, sources: pa.Table) -> None:
        refused = sources.filter(pa.array([status == "quarantined" for status in sources["status"].to_pylist()]))
        for (writer, schema), table in zip(self._writers, (sources, refused), strict=True):
            writer.write_table(table.select(schema.names))

    def finish(self) -> dict[str, bytes]:
        for writer, _ in self._writers:
            writer.close()
        return {"sources": self.sources.getvalue(), "quarantine": self.quarantine.getvalue()}


def assemble(job: Job, data: Data, tars: Sequence[FoundTar], before: Manifest | None) -> Assembled:
    """Writes the indexes; the rest is the caller's to commit. `tars` are scanned, in the order of their URIs."""
    states, classes = _settle(job, tars)
    were = {(shard.sha256, shard.split): shard for shard in before.shards if shard.uri} if before else {}
    number = {label: place for place, label in enumerate(classes)}
    tables, shards = _Tables(), list[Shard]()
    quarantined, per_class, duplicates = Counter[str](), Counter[str](), 0
    for tar, state in zip(tars, states, strict=True):
        rows, tar_sha256, size = read_scan(job, tar)
        kept = rows.filter(pa.array(state == _KEPT))
        sides = _write_indexes(job, tar, tar_sha256, size, kept, number, data.held_out, were)
        shards += sides
        sources = _sources(tar, rows, state, tar_sha256)
        tables.add(sources)
        quarantined.update(reason for reason in sources["reason"].to_pylist() if reason)
        duplicates += int((state == _DUPLICATE).sum())
        per_class.update(kept["label"].to_pylist())
    removed = to_parquet(REMOVED_SCHEMA.empty_table())
    assert data.resolution is not None and data.channels is not None
    splits: tuple[Split, ...] = ("train", "held_out")
    manifest = Manifest(
        resolution=data.resolution,
        channels=data.channels,
        encoding=FOREIGN,
        processing={**processing(data), "tar": {"labels": job.labels, "image": job.image}},
        classes=classes,
        samples={split: sum(shard.samples for shard in shards if shard.split == split) for split in splits},
        class_counts=[per_class[label] for label in classes],
        # By what they hold, so that the digest does not tell how they were listed.
        shards=sorted(shards, key=lambda shard: (shard.sha256, shard.uri, shard.split)),
        removed_sha256=sha256(removed),
        parent=before.digest if before else None,
    )
    return Assembled(manifest, {**tables.finish(), "removed": removed}, dict(quarantined), duplicates)


def _settle(job: Job, tars: Sequence[FoundTar]) -> tuple[list[np.ndarray], list[str]]:
    """What becomes of each row of each tar, uint8, and the names of the classes.

    Where any sample has a label, one without is quarantined. Of equal images the first stays.
    """
    keys, labelled, states, labels = list[np.ndarray](), list[np.ndarray](), list[np.ndarray](), set[str]()
    for tar in tars:
        rows, _, _ = read_scan(job, tar)
        valid = np.array([not reason for reason in rows["reason"].to_pylist()], dtype=bool)
        told = rows["label"].filter(pa.array(valid))
        labels.update(label for label in told.unique().to_pylist() if label is not None)
        states.append(np.where(valid, _KEPT, _QUARANTINED).astype(np.uint8))
        keys.append(_packed(rows["key"].filter(pa.array(valid)).to_pylist()))
        labelled.append(np.array([label is not None for label in told.to_pylist()], dtype=bool))
    state = _first_of_each(np.concatenate(keys), ~np.concatenate(labelled) & bool(labels))
    ends = np.cumsum([len(part) for part in keys])
    for each, part in zip(states, np.split(state, ends[:-1]), strict=True):
        each[each == _KEPT] = part
    return states, _ordered(labels)


def _packed(keys: list[str]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex("".join(keys)), dtype="S16")


def _first_of_each(keys: np.ndarray, unlabelled: np.ndarray) -> np.ndarray:
    state = np.full(len(keys), _DUPLICATE, dtype=np.uint8)
    usable = np.flatnonzero(~unlabelled)
    state[usable[np.unique(keys[usable], return_index=True)[1]]] = _KEPT
    state[unlabelled] = _QUARANTINED
    return state


def _ordered(labels: Iterable[str]) -> list[str]:
    """As numbers where all are whole ones, so that classes 0 to 9 keep their numbers."""
    if all(label.isascii() and label.removeprefix("-").isdigit() and str(int(label)) == label for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def _write_indexes(
    job: Job,
    tar: FoundTar,
    tar_sha256: str,
    size: int,
    kept: pa.Table,
    number: dict[str, int],
    held_out: float,
    were: dict[tuple[str, Split], Shard],
) -> list[Shard]:
    """One index for each side of the split that the tar has images of."""
    columns: dict[str, Any] = {name: kept[name] for name in FOREIGN_SCHEMA.names}
    columns["label"] = pa.array([-1 if label is None else number[label] for label in kept["label"].to_pylist()])
    index = pa.table(columns).cast(FOREIGN_SCHEMA).replace_schema_metadata(None)
    held = np.array([is_held_out(key, held_out) for key in kept["key"].to_pylist()], dtype=bool)
    shards = []
    sides: tuple[tuple[Split, np.ndarray], ...] = (("train", ~held), ("held_out", held))
    for split, mask in sides:
        if not mask.any():
            continue
        rows = index.filter(pa.array(mask)).combine_chunks()
        written = _as_before(job, were.get((tar_sha256, split)), rows) or to_parquet(rows)
        shard = Shard(tar_sha256, sha256(written), split, rows.num_rows, size, uri=tar.uri)
        path = index_path(job.name, shard)
        if not job.storage.exists(path):
            job.storage.write(path, written)
        shards.append(shard)
    return shards


def _as_before(job: Job, shard: Shard | None, rows: pa.Table) -> bytes | None:
    """The index of the version before, if it has these rows: another pyarrow may put them in other bytes."""
    try:
        stored = job.storage.read(index_path(job.name, shard)) if shard else None
        return stored if stored and pq.read_table(io.BytesIO(stored)).equals(rows) else None
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def _sources(tar: FoundTar, rows: pa.Table, state: np.ndarray, tar_sha256: str) -> pa.Table:
    kept = state == _KEPT
    unlabelled = [
        status == _QUARANTINED and not why for status, why in zip(state, rows["reason"].to_pylist(), strict=True)
    ]
    columns = {
        "path": [f"{tar.uri}#{name}" for name in rows["name"].to_pylist()],
        "stamp": [tar.stamp] * len(kept),
        "key": rows["key"],
        "label": rows["label"],
        "status": [_STATUS[status] for status in state],
        "reason": [
            "no_label" if none else why for none, why in zip(unlabelled, rows["reason"].to_pylist(), strict=True)
        ],
        "detail": [
            "other samples have one" if none else why
            for none, why in zip(unlabelled, rows["detail"].to_pylist(), strict=True)
        ],
        "shard": [tar_sha256 if here else "" for here in kept],
        "bytes": rows["size"],
        "width": rows["width"],
        "height": rows["height"],
        "mode": rows["mode"],
    }
    return pa.table(columns).cast(SOURCES_SCHEMA).replace_schema_metadata(None)
