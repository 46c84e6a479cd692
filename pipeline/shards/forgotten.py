"""What was removed for good: which images, and what became of the versions that held them.

<storage>/datasets/<name>/forgotten.parquet      the keys, which no later ingest takes in again
<storage>/datasets/<name>/superseded.json        by the digest of a version that is gone: its successor, and
                                                 which of the keys it showed
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shards.index import to_parquet
from pipeline.shards.manifest import dataset_folder
from pipeline.storage import Storage

REASON = "forgotten"  # in the quarantine of later versions

_SCHEMA = pa.schema({"key": pa.string()})


@dataclass(frozen=True)
class Superseded:
    """`by` is the digest of the version that took the place, `keys` what it does not show any more."""

    by: str
    keys: tuple[str, ...]


def forgotten_keys(storage: Storage, name: str) -> set[str]:
    """Keys of the images that must not be in the dataset `name` again."""
    try:
        data = storage.read(f"{dataset_folder(name)}/forgotten.parquet")
    except FileNotFoundError:
        return set()
    return set(pq.read_table(io.BytesIO(data))["key"].to_pylist())


def remember_forgotten(storage: Storage, name: str, keys: Iterable[str]) -> set[str]:
    """Adds to them, and gives them all."""
    before = forgotten_keys(storage, name)
    every = before | set(keys)
    if every != before:
        table = pa.table({"key": sorted(every)}, schema=_SCHEMA)
        storage.write(f"{dataset_folder(name)}/forgotten.parquet", to_parquet(table))
    return every


def read_superseded(storage: Storage, name: str) -> dict[str, Superseded]:
    try:
        values = storage.read_json(f"{dataset_folder(name)}/superseded.json")
    except FileNotFoundError:
        return {}
    return {digest: Superseded(one["by"], tuple(one["keys"])) for digest, one in values.items()}


def write_superseded(storage: Storage, name: str, every: Mapping[str, Superseded]) -> None:
    values = {digest: {"by": one.by, "keys": list(one.keys)} for digest, one in every.items()}
    storage.write_json(f"{dataset_folder(name)}/superseded.json", values)


def successor(digest: str, superseded: Mapping[str, Superseded]) -> str:
    """The version that stands for this one now; itself if it is there still."""
    while digest in superseded:
        digest = superseded[digest].by
    return digest


def that_showed(keys: set[str], superseded: Mapping[str, Superseded]) -> set[str]:
    """Digests of the versions that are gone and showed one of these images, whatever else they were gone for."""

    def showed(digest: str) -> bool:
        while digest in superseded:
            if not keys.isdisjoint(superseded[digest].keys):
                return True
            digest = superseded[digest].by  # what a successor showed, it showed too
        return False

    return {digest for digest in superseded if showed(digest)}
