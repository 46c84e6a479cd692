"""What an ingest has to do: which images are new, which are gone, and what each new shard will hold.

The plan depends on the content of the images alone, never on the order in which they were listed.
"""

import io
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ingest.source import Item
from pipeline.shards.forgotten import REASON as FORGOTTEN
from pipeline.shards.index import to_parquet
from pipeline.shards.manifest import DatasetRef, Split
from pipeline.shards.write import Sample, is_held_out
from pipeline.storage import Storage


@dataclass(frozen=True)
class Origin:
    """A file of the source and what became of it. `status`: kept, duplicate or quarantined."""

    path: str
    stamp: str  # changes when the file does
    key: str
    label: str | None
    status: str
    reason: str = ""
    detail: str = ""
    shard: str = ""


SOURCES_SCHEMA = pa.schema({field: pa.string() for field in Origin.__dataclass_fields__})


@dataclass(frozen=True)
class ShardPlan:
    split: Split
    samples: list[Sample]


def read_origins(storage: Storage, dataset: DatasetRef) -> list[Origin]:
    table = pq.read_table(io.BytesIO(storage.read(f"{dataset.folder}/sources.parquet")))
    return [Origin(**row) for row in table.to_pylist()]


def write_origins(origins: list[Origin]) -> bytes:
    rows: list[dict[str, Any]] = [vars(origin) for origin in sorted(origins, key=lambda origin: origin.path)]
    return to_parquet(pa.Table.from_pylist(rows, schema=SOURCES_SCHEMA))


def known_keys(items: list[Item], before: list[Origin]) -> dict[str, str]:
    """Path to content key, for the files that are as they were: they need not be opened again.

    What could not be read is tried again: a permission given since does not change the stamp.
    """
    stamps = {(origin.path, origin.stamp): origin.key for origin in before if origin.reason != "unreadable"}
    return {item.path: stamps[item.path, item.stamp] for item in items if (item.path, item.stamp) in stamps}


def resolve(items: list[Item], keys: dict[str, str], before: list[Origin]) -> list[Origin]:
    """What each item is: kept or quarantined as before, new, or a duplicate of another.

    Of equal files the one whose class was kept before stays, else the first by path.
    """
    was = {o.key: o for o in before if o.status in ("kept", "quarantined") and o.reason != "unreadable"}
    copies: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: item.path):
        copies.setdefault(keys[item.path], []).append(item)
    origins = []
    for key, same in copies.items():
        old = was.get(key)
        chosen = next((item for item in same if old and item.label == old.label), same[0])
        for item in same:
            origin = Origin(item.path, item.stamp, key, item.label, "new")
            if old and old.status == "quarantined":
                origin = replace(origin, status="quarantined", reason=old.reason, detail=old.detail)
            elif item is not chosen:
                origin = replace(origin, status="duplicate")
            elif old and old.label == item.label:
                origin = replace(origin, status="kept", shard=old.shard)
            origins.append(origin)
    return origins


def leave_out(origins: list[Origin], forgotten: set[str]) -> list[Origin]:
    """Quarantines the images that were removed for good."""
    why = {"status": "quarantined", "reason": FORGOTTEN, "detail": "it was removed with `ganline forget`", "shard": ""}
    return [replace(origin, **why) if origin.key in forgotten else origin for origin in origins]


def plan_shards(origins: list[Origin], classes: list[str], held_out: float, shard_images: int) -> list[ShardPlan]:
    """Shards for the new images: those held out apart, each in key order."""
    number = {label: index for index, label in enumerate(classes)}
    new = sorted((origin for origin in origins if origin.status == "new"), key=lambda origin: origin.key)
    samples = [
        Sample(origin.key, origin.path, number[origin.label] if origin.label is not None else -1) for origin in new
    ]
    plans = []
    sides: list[tuple[Split, bool]] = [("train", False), ("held_out", True)]
    for split, wanted in sides:
        side = [sample for sample in samples if is_held_out(sample.key, held_out) is wanted]
        plans += [ShardPlan(split, side[at : at + shard_images]) for at in range(0, len(side), shard_images)]
    return plans
