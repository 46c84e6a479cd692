"""The manifest of a dataset version, and where everything of a dataset lies.

A version is named by a digest over its content; its manifest is written last, and its presence is the
commit. Shards are named by their own bytes, never changed, and shared between versions.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pipeline.digest import digest
from pipeline.storage import Storage

SCHEMA = 1
FOREIGN = "foreign"  # the encoding of a version whose shards are tars made elsewhere: each row tells its own
Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Shard:
    """One tar and its index. `samples` counts what the tar holds, `removed` what this version hides of it.

    A tar made elsewhere stays where it lies, at `uri`. It may hold images of both splits: then it is two shards, each
    with an index, and the count, of its own side.
    """

    sha256: str
    index_sha256: str
    split: Split
    samples: int
    bytes: int
    removed: int = 0
    uri: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What a version holds. Grows with the number of shards, not of samples."""

    resolution: int
    channels: int
    encoding: str
    processing: dict[str, Any]  # how pixels were made from files
    classes: list[str]
    samples: dict[str, int]  # by split
    class_counts: list[int]  # both splits together, in the order of `classes`
    shards: list[Shard]
    removed_sha256: str
    parent: str | None = None
    schema: int = field(default=SCHEMA)

    @property
    def digest(self) -> str:
        """Over everything but the parent: the same content has the same digest however it came about."""
        values = self.to_dict()
        del values["parent"]
        return digest(values)

    def of_split(self, split: Split) -> list[Shard]:
        return [shard for shard in self.shards if shard.split == split]

    def to_dict(self) -> dict[str, Any]:
        """Without `uri` where there is none: manifests from before it keep their digests."""
        values = dataclasses.asdict(self)
        for shard in values["shards"]:
            if shard["uri"] is None:
                del shard["uri"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Manifest":
        """Raises ValueError for a manifest of another schema."""
        if values.get("schema") != SCHEMA:
            raise ValueError(f"manifest schema {values.get('schema')} is not {SCHEMA}, the one this version reads")
        return cls(**{**values, "shards": [Shard(**shard) for shard in values["shards"]]})


@dataclass(frozen=True)
class DatasetRef:
    """Names one immutable version of a dataset."""

    name: str
    digest: str

    @property
    def folder(self) -> str:
        return f"{dataset_folder(self.name)}/versions/{self.digest}"


def dataset_folder(name: str) -> str:
    return f"datasets/{name}"


def shard_path(name: str, sha256: str, suffix: Literal["tar", "parquet"]) -> str:
    return f"{dataset_folder(name)}/shards/{sha256}.{suffix}"


def latest_path(name: str) -> str:
    """Of the word which version the last ingest made."""
    return f"{dataset_folder(name)}/latest.json"


def accepted_path(name: str) -> str:
    """Of the word which version was last let through to be trained on."""
    return f"{dataset_folder(name)}/accepted.json"


def index_path(name: str, shard: Shard) -> str:
    """Of a foreign tar, whose index is not a function of the tar alone, named by its own content too."""
    if shard.uri is None:
        return shard_path(name, shard.sha256, "parquet")
    return f"{dataset_folder(name)}/shards/{shard.sha256}.{shard.split}.{shard.index_sha256[:12]}.parquet"


def tar_place(storage: Storage, name: str, shard: Shard) -> tuple[Storage, str]:
    """The storage and the path in it where a shard's tar lies."""
    return (storage, shard_path(name, shard.sha256, "tar")) if shard.uri is None else split_uri(shard.uri)


def split_uri(uri: str) -> tuple[Storage, str]:
    """A file anywhere as its folder and its name there."""
    before, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    folder, _, file = before.rpartition("/")
    return _folder(f"{folder}{mark}{query}" if mark or folder else "/"), file


@lru_cache(maxsize=16)
def _folder(uri: str) -> Storage:
    return Storage(uri)  # kept, for the connection that it holds


def load_manifest(storage: Storage, dataset: DatasetRef) -> Manifest:
    """Raises ValueError if what is stored is not what the digest names."""
    what = f"the manifest of {dataset.name} version {dataset.digest[:12]}"
    try:
        manifest = Manifest.from_dict(storage.read_json(f"{dataset.folder}/manifest.json"))
        actual = manifest.digest
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # JSON of any shape, or none
        raise ValueError(f"{what} cannot be read: {error}") from None
    if actual != dataset.digest:
        raise ValueError(f"{what} has been altered")
    return manifest


def latest_version(storage: Storage, name: str) -> DatasetRef | None:
    """The version that the last ingest of this name made."""
    try:
        return DatasetRef(name, storage.read_json(latest_path(name))["digest"])
    except FileNotFoundError:
        return None


def all_versions(storage: Storage, name: str) -> list[DatasetRef]:
    """Every committed version, by digest."""
    folders = [entry.path for entry in storage.list(f"{dataset_folder(name)}/versions") if entry.is_folder]
    return [DatasetRef(name, path.rpartition("/")[2]) for path in folders if storage.exists(f"{path}/manifest.json")]


def commit_version(storage: Storage, name: str, manifest: Manifest, tables: Mapping[str, bytes | Path]) -> DatasetRef:
    """Publishes the tables, bytes or local files, then the manifest, then the pointer to it."""
    dataset = DatasetRef(name, manifest.digest)
    for table, data in tables.items():
        path = f"{dataset.folder}/{table}.parquet"
        if isinstance(data, bytes):
            storage.write(path, data)
        else:
            storage.upload(data, path)
    # A version that is there already keeps its manifest: only the parent's name could differ.
    if not storage.exists(f"{dataset.folder}/manifest.json"):
        storage.write_json(f"{dataset.folder}/manifest.json", manifest.to_dict())
    storage.write_json(latest_path(name), {"digest": dataset.digest})
    return dataset
