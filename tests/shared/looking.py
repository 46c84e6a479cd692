"""What is in storage after an ingest, and in the folder before it. pyproject.toml puts this folder on pytest's path."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.shards.read import DatasetReader
from pipeline.shards.write import content_key
from pipeline.storage import Storage


def shard_files(storage: Storage) -> dict[str, tuple[int, int]]:
    """Name to inode and mtime: a file that is written again, even with the same bytes, shows."""
    folder = storage.local_path("datasets/pets/shards")
    entries = folder.iterdir() if folder.exists() else []
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in entries}


def contents(storage: Storage, dataset: DatasetRef) -> dict[str, tuple[str, str | None]]:
    """Content key to (split, class), from what the reader gives."""
    classes, found = load_manifest(storage, dataset).classes, {}
    for split in ("train", "held_out"):
        reader = DatasetReader(storage, dataset, split)
        shards = np.repeat(np.arange(len(reader.counts)), reader.counts)
        rows = np.array([row for count in reader.counts for row in range(count)], dtype=int)
        _, labels = reader.read(shards, rows)
        for key, label in zip(reader.keys(shards, rows), labels.tolist(), strict=True):
            assert key not in found
            found[key] = (split, classes[label] if label >= 0 else None)
    return found


def on_disk(source: Path) -> dict[str, str]:
    """Content key to class, from the folder."""
    return {content_key(path.read_bytes()): path.parent.name for path in source.rglob("*.png")}


def classes_of(storage: Storage, dataset: DatasetRef) -> dict[str, str | None]:
    return {key: label for key, (_, label) in contents(storage, dataset).items()}


def quarantine(storage: Storage, dataset: DatasetRef) -> list[dict]:
    return pq.read_table(io.BytesIO(storage.read(f"{dataset.folder}/quarantine.parquet"))).to_pylist()


def origins_of(storage: Storage, dataset: DatasetRef) -> dict[str, dict]:
    """Rows of sources.parquet by path."""
    rows = pq.read_table(io.BytesIO(storage.read(f"{dataset.folder}/sources.parquet"))).to_pylist()
    assert [row["path"] for row in rows] == sorted({row["path"] for row in rows})
    return {row["path"]: row for row in rows}
