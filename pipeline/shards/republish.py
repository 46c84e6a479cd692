"""Shards and versions again, without some of their images."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import isal_zlib

from pipeline.errors import UserError
from pipeline.progress import Progress, report
from pipeline.shards.encoding import suffix
from pipeline.shards.forgotten import Superseded, successor
from pipeline.shards.index import to_parquet
from pipeline.shards.manifest import DatasetRef, Manifest, Shard, shard_path
from pipeline.shards.store import Encoded, store_shard
from pipeline.shards.tables import in_pieces
from pipeline.shards.version import REMOVED_SCHEMA
from pipeline.storage import Storage, sha256


@dataclass(frozen=True)
class Forgetting:
    """What there is to do. `keys` are those asked for and those of an earlier call that was cut off.

    `holders`: each stored shard that has some of them, with their labels. `versions`: each version over such shards,
    with the (shard, key) of those that it shows; of the others it has only the hidden bytes.
    """

    name: str
    keys: frozenset[str]
    holders: dict[str, dict[str, int]]
    versions: dict[str, frozenset[tuple[str, str]]]


def hidden_in(storage: Storage, dataset: DatasetRef) -> set[tuple[str, str]]:
    """The (shard, key) that a version does not show."""
    table = pq.read_table(io.BytesIO(storage.read(f"{dataset.folder}/removed.parquet")))
    return set(zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True))


def rewrite_shards(storage: Storage, plan: Forgetting, manifests: Mapping[str, Manifest]) -> dict[str, Shard | None]:
    """Each holder that a version names, without the images; None where nothing is left of it."""
    named = {
        shard.sha256: (shard, suffix(manifest.encoding))
        for manifest in manifests.values()
        for shard in manifest.shards
        if shard.sha256 in plan.holders
    }
    total, done, rewritten = sum(shard.samples for shard, _ in named.values()), 0, {}
    for sha, (shard, extension) in sorted(named.items()):
        images = list(_others(storage, plan.name, sha, plan.holders[sha].keys()))
        rewritten[sha] = store_shard(storage, plan.name, shard.split, extension, images).shard if images else None
        done += shard.samples
        report(Progress("forget", done, total))
    return rewritten


def _others(storage: Storage, name: str, shard: str, gone: Set[str]) -> Iterator[Encoded]:
    """The other images of a shard, byte by byte."""
    remedy = f"`ganline verify {name}` says more; restore it, or shard the images again, and then forget these"
    try:
        tar = memoryview(storage.read(shard_path(name, shard, "tar")))
    except FileNotFoundError:
        raise UserError(f"shard {shard[:12]} of {name} has lost its tar; {remedy}") from None
    for row in pq.read_table(io.BytesIO(storage.read(shard_path(name, shard, "parquet")))).to_pylist():
        if row["key"] in gone:
            continue
        data = bytes(tar[row["offset"] : row["offset"] + row["size"]])
        if isal_zlib.crc32(data) != row["crc32"]:
            raise UserError(f"shard {shard[:12]} of {name} is damaged at image {row['key']}; {remedy}")
        yield Encoded(row["key"], row["label"], data, row["width"], row["height"])


def without(
    storage: Storage, plan: Forgetting, digest: str, old: Manifest, rewritten: Mapping[str, Shard | None]
) -> tuple[Manifest, bytes]:
    """A version's manifest and table of removed images over the new shards; its parent is still the old one."""
    hidden = {(s, key) for s, key in hidden_in(storage, DatasetRef(plan.name, digest)) if key not in plan.keys}
    counts, shards, new_name = Counter(shard for shard, _ in hidden), [], {}
    for shard in old.shards:
        new = rewritten.get(shard.sha256, shard)
        removed = counts[shard.sha256]
        if new and removed < new.samples:
            new_name[shard.sha256] = new.sha256
            shards.append(replace(new, split=shard.split, removed=removed))
    rows = sorted((new_name[shard], key) for shard, key in hidden if shard in new_name)
    table = pa.Table.from_pylist([{"shard": s, "key": k} for s, k in rows], schema=REMOVED_SCHEMA)
    removed_table = to_parquet(table)
    lost = Counter(plan.holders[shard][key] for shard, key in plan.versions[digest])
    manifest = replace(
        old,
        samples={
            split: sum(shard.samples - shard.removed for shard in shards if shard.split == split)
            for split in old.samples
        },
        class_counts=[count - lost[number] for number, count in enumerate(old.class_counts)],
        shards=sorted(shards, key=lambda shard: shard.sha256),
        removed_sha256=sha256(removed_table),
    )
    return manifest, removed_table


def parent_of(digest: str, manifests: Mapping[str, Manifest], superseded: Mapping[str, Superseded]) -> str | None:
    """What now stands for the parent; the one before where a version and its parent have become the same."""
    parent = manifests[digest].parent
    while parent and successor(parent, superseded) == successor(digest, superseded):
        parent = manifests[parent].parent if parent in manifests else None
    return successor(parent, superseded) if parent else None


def publish(
    storage: Storage,
    plan: Forgetting,
    digest: str,
    manifest: Manifest,
    removed: bytes,
    rewritten: Mapping[str, Shard | None],
) -> None:
    """The version in the place of `digest`, its manifest last; one that is there already stays as it is."""
    old, new = DatasetRef(plan.name, digest), DatasetRef(plan.name, manifest.digest)
    if storage.exists(f"{new.folder}/manifest.json"):
        return
    for table in ("sources", "quarantine"):
        storage.write(
            f"{new.folder}/{table}.parquet", _filtered(storage, f"{old.folder}/{table}.parquet", plan, rewritten)
        )
    storage.write(f"{new.folder}/removed.parquet", removed)
    storage.write_json(f"{new.folder}/manifest.json", manifest.to_dict())


def _filtered(storage: Storage, path: str, plan: Forgetting, rewritten: Mapping[str, Shard | None]) -> bytes:
    """A table of a version without the rows of these keys, and with the new shards' names."""
    keys = pa.array(sorted(plan.keys), pa.string())
    old = pa.array(list(rewritten), pa.string())
    new = pa.array([shard.sha256 if shard else "" for shard in rewritten.values()], pa.string())
    filesystem, located = storage.locate(path)
    buffer = io.BytesIO()
    with filesystem.open_input_file(located) as file:
        table = in_pieces(file)
        with pq.ParquetWriter(buffer, table.schema_arrow, compression="zstd") as writer:
            for batch in table.iter_batches():
                batch = batch.filter(pc.invert(pc.is_in(batch["key"], value_set=keys)))
                if "shard" in batch.schema.names and len(old):
                    named = new.take(pc.index_in(batch["shard"], value_set=old))
                    number = batch.schema.get_field_index("shard")
                    batch = batch.set_column(number, "shard", pc.coalesce(named, batch["shard"]))
                writer.write_batch(batch)
    return buffer.getvalue()
