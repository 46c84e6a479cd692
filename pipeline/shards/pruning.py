"""Versions of a dataset that nobody needs, and their going, with the shards that are in no other.

A version goes by its manifest first: half a version is none, and the next call takes away what is left of it. Shards go
last, so that at every moment each version that has a manifest is whole.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from pipeline.errors import UserError
from pipeline.locks import Held
from pipeline.shards.alone import alone
from pipeline.shards.manifest import (
    DatasetRef,
    accepted_path,
    dataset_folder,
    index_path,
    latest_path,
    load_manifest,
    shard_path,
)
from pipeline.storage import Storage

_DAY = 24 * 3600 * 10**9  # ns


@dataclass(frozen=True)
class Pruning:
    """What goes of a dataset, or went: versions by digest, folders that are half a version, files of shards; `bytes` of
    it all. `kept`: by digest, why a version stays. `busy`: why nothing could be done."""

    name: str
    versions: Sequence[str] = ()
    halves: Sequence[str] = ()
    files: Sequence[str] = ()
    bytes: int = 0
    kept: Mapping[str, str] = field(default_factory=dict)
    busy: str | None = None


def prune_dataset(
    storage: Storage, name: str, named: Callable[[], Mapping[str, str]], days: float, *, really: bool
) -> Pruning:
    """What would go of a dataset, or with `really` what went, while nobody else may change it.

    A version stays that is the latest or was less than `days` ago, that was the last let through to training, or for
    which `named` has what needs it, by digest. Raises UserError, with nothing deleted, for one that stays and can not
    be read; what `named` raises comes before anything is deleted, too.
    """
    lock: Held | None = None
    with ExitStack() as stack:
        if really:
            try:
                _, lock = stack.enter_context(alone(storage, name))
            except UserError as busy:
                return Pruning(name, busy=str(busy))
        plan = _plan(storage, name, named(), time.time_ns() - round(days * _DAY))
        if lock:
            folders = [DatasetRef(name, digest).folder for digest in plan.versions]
            for folder in folders:
                lock.check()
                storage.delete(f"{folder}/manifest.json")
            for folder in [*folders, *plan.halves]:
                storage.delete_folder(folder)
            for path in plan.files:
                lock.check()
                storage.delete(path)
        return plan


def _plan(storage: Storage, name: str, named: Mapping[str, str], before: int) -> Pruning:
    versions = f"{dataset_folder(name)}/versions"
    folders = {entry.path: list(storage.list(entry.path)) for entry in storage.list(versions) if entry.is_folder}
    written = {
        folder.rpartition("/")[2]: entry.changed
        for folder, entries in folders.items()
        for entry in entries
        if entry.path == f"{folder}/manifest.json"
    }
    kept = _reasons(storage, name, written, named, before)
    gone = [folder for folder in folders if (digest := folder.rpartition("/")[2]) in written and digest not in kept]
    halves = [
        folder
        for folder, entries in folders.items()
        if folder.rpartition("/")[2] not in written and all(entry.changed < before for entry in entries)
    ]
    needed = _needed(storage, name, kept)
    files = [
        entry
        for entry in storage.list(f"{dataset_folder(name)}/shards")
        if entry.path not in needed and entry.changed < before  # an ingest that was interrupted goes on with the rest
    ]
    size = sum(entry.size for entry in files) + sum(storage.folder_size(folder) for folder in [*gone, *halves])
    digests = [folder.rpartition("/")[2] for folder in gone]
    return Pruning(name, digests, halves, [entry.path for entry in files], size, kept)


def _reasons(
    storage: Storage, name: str, written: Mapping[str, int], named: Mapping[str, str], before: int
) -> dict[str, str]:
    """Why each version stays that does. `written`: when each was."""
    latest, accepted = (_pointed_to(storage, path) for path in (latest_path(name), accepted_path(name)))
    # A run may begin on the version that is the latest, and tell of itself only when another is.
    in_order = sorted(written, key=lambda digest: written[digest])
    replaced = dict(zip(in_order, [written[later] for later in in_order[1:]], strict=False))
    kept = {}
    for digest in in_order:
        if digest == latest or latest is None:
            kept[digest] = "the latest" if latest else "which is the latest is not known"
        elif digest == accepted:
            kept[digest] = "the last that was let through to training"
        elif digest in named:
            kept[digest] = named[digest]
        elif replaced.get(digest, before) >= before:
            kept[digest] = "was the latest not long ago"
    return kept


def _pointed_to(storage: Storage, path: str) -> str | None:
    try:
        return storage.read_json(path)["digest"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} in {storage.name} is damaged; an ingest of the dataset writes it anew") from None


def _needed(storage: Storage, name: str, kept: Mapping[str, str]) -> set[str]:
    """Paths of the files of all shards in these versions."""
    needed = set[str]()
    for digest in kept:
        try:
            manifest = load_manifest(storage, DatasetRef(name, digest))
        except ValueError as error:
            raise UserError(f"{error}; restore it from a copy, or delete {DatasetRef(name, digest).folder}") from None
        for shard in manifest.shards:
            needed |= {shard_path(name, shard.sha256, "tar"), index_path(name, shard)}
    return needed
