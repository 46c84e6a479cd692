"""Images removed for good: from the shards that hold them, and from every version of their dataset.

First all that is new is written: the keys, the shards without them, the versions over those, the pointers. Only then
is the old deleted, versions before shards. So at every moment each version that has a manifest is whole, and the same
call, made again after an interruption, finds what is left to do. No ingest of the dataset may run meanwhile: it could
commit a version over shards that are deleted here. `alone` keeps it away.
"""

import io
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.locks import Held
from pipeline.shards.forgotten import (
    Superseded,
    forgotten_keys,
    read_superseded,
    remember_forgotten,
    successor,
    write_superseded,
)
from pipeline.shards.manifest import (
    DatasetRef,
    Manifest,
    accepted_path,
    all_versions,
    dataset_folder,
    latest_path,
    load_manifest,
    shard_path,
)
from pipeline.shards.republish import Forgetting, hidden_in, parent_of, publish, rewrite_shards, without
from pipeline.storage import Storage, cache_root


def plan_forgetting(storage: Storage, name: str, keys: set[str]) -> Forgetting:
    """Looks only. Raises UserError for what is no key, and for a version that cannot be read."""
    for key in keys:
        if len(key) != 32 or not set(key) <= set("0123456789abcdef"):
            raise UserError(f"{key!r} is no key of an image: 32 hex digits, as in the column key of sources.parquet")
    every = keys | forgotten_keys(storage, name)
    holders = _holders(storage, name, every)
    superseded = read_superseded(storage, name)
    versions = {}
    for dataset in all_versions(storage, name):
        if dataset.digest in superseded:
            continue
        shards = {shard.sha256 for shard in _manifest(storage, dataset).shards} & holders.keys()
        if shards:
            hidden = hidden_in(storage, dataset)
            versions[dataset.digest] = frozenset((s, key) for s in shards for key in holders[s]) - hidden
    return Forgetting(name, frozenset(every), holders, versions)


def forget(storage: Storage, plan: Forgetting, held: Held) -> dict[str, Superseded]:
    """Does it, and gives every version of the dataset that is gone for this or an earlier call.

    Raises Unavailable, with nothing deleted, where `held` is no longer ours.
    """
    name = plan.name
    remember_forgotten(storage, name, plan.keys)
    manifests = {digest: _manifest(storage, DatasetRef(name, digest)) for digest in plan.versions}
    rewritten = rewrite_shards(storage, plan, manifests)
    fresh = {digest: without(storage, plan, digest, manifests[digest], rewritten) for digest in plan.versions}
    superseded = read_superseded(storage, name)
    for digest, (manifest, _) in fresh.items():
        keys = tuple(sorted({key for _, key in plan.versions[digest]}))
        superseded[digest] = Superseded(manifest.digest, keys)
    for digest, (manifest, removed) in fresh.items():
        manifest = replace(manifest, parent=parent_of(digest, manifests, superseded))
        publish(storage, plan, digest, manifest, removed, rewritten)
    write_superseded(storage, name, superseded)
    for pointer in (latest_path(name), accepted_path(name)):
        _repoint(storage, pointer, superseded)
    held.check()
    _delete(storage, name, superseded, plan.holders)
    return superseded


def _holders(storage: Storage, name: str, keys: set[str]) -> dict[str, dict[str, int]]:
    """By the indexes of all stored shards, whether a version names them or not."""
    found = {}
    wanted = pa.array(sorted(keys), pa.string())
    for entry in storage.list(f"{dataset_folder(name)}/shards"):
        if entry.path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(storage.read(entry.path)), columns=["key", "label"])
            table = table.filter(pc.is_in(table["key"], value_set=wanted))
            if table.num_rows:
                shard = entry.path.rpartition("/")[2].removesuffix(".parquet")
                found[shard] = dict(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True))
    return found


def _manifest(storage: Storage, dataset: DatasetRef) -> Manifest:
    try:
        return load_manifest(storage, dataset)
    except ValueError as error:
        raise UserError(f"{error}; restore it from a copy, or delete {dataset.folder}") from None


def _repoint(storage: Storage, path: str, superseded: Mapping[str, Superseded]) -> None:
    try:
        word = storage.read_json(path)
    except FileNotFoundError:
        return
    if word["digest"] in superseded:
        storage.write_json(path, {**word, "digest": successor(word["digest"], superseded)})


def _delete(
    storage: Storage, name: str, superseded: Mapping[str, Superseded], holders: Mapping[str, dict[str, int]]
) -> None:
    for digest in superseded:
        folder = DatasetRef(name, digest).folder
        storage.delete(f"{folder}/manifest.json")  # first: half a version is none
        storage.delete_folder(folder)
    storage.delete_folder(f"{dataset_folder(name)}/parts")
    for copy in cache_root(storage).rglob("*.*"):  # of this machine
        if copy.name.partition(".")[0] in holders:
            copy.unlink()
    for shard in holders:
        # The index last: it is by the index that a shard is known to hold these images.
        storage.delete(shard_path(name, shard, "tar"))
        storage.delete(shard_path(name, shard, "parquet"))
