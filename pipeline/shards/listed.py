"""The datasets of a storage root, and what there is of each."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.shards.manifest import all_versions, dataset_folder, latest_version, load_manifest
from pipeline.storage import Storage


@dataclass(frozen=True)
class Listed:
    """`images` are those of the latest version, whose digest is empty where there is none that can be read; `bytes`
    those of all files."""

    name: str
    latest: str
    images: int
    versions: int
    bytes: int


def dataset_names(storage: Storage, chosen: Iterable[str] = ()) -> list[str]:
    """The chosen, or all there are; raises UserError for one that is not there."""
    there = [entry.path.rpartition("/")[2] for entry in storage.list("datasets") if entry.is_folder]
    for name in (chosen := list(chosen)):
        if name not in there:
            raise UserError(f"there is no dataset {name} in {storage.name}; there are: {', '.join(there) or 'none'}")
    return list(dict.fromkeys(chosen)) or there


def list_datasets(storage: Storage) -> list[Listed]:
    """By name."""
    return [_look_at(storage, name) for name in dataset_names(storage)]


def _look_at(storage: Storage, name: str) -> Listed:
    try:
        latest = latest_version(storage, name)
        images = sum(load_manifest(storage, latest).samples.values()) if latest else 0
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        latest, images = None, 0
    size = storage.folder_size(dataset_folder(name))
    return Listed(name, latest.digest if latest else "", images, len(all_versions(storage, name)), size)
