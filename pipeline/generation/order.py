"""What is asked for, the one thing that a folder of generated shards holds, and what its manifest says."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.storage import Storage

SCHEMA = 1
ORDER = "generation.json"  # written first: whose folder this is
MANIFEST = "manifest.json"  # written last: its presence says that all shards are there
RECORDS = "progress"  # one file for each shard that is done, until the manifest tells of them all


@dataclass(frozen=True)
class Order:
    """Images 0 to `images - 1` of one version and seed: all that the shards' bytes depend on.

    `label` is the class's name where all images are of one; else image `i` is of class `i % classes`.
    """

    model: str
    version: int
    weights_sha256: str
    images: int
    shard_images: int
    seed: int = 0
    label: str | None = None
    truncation: float = 1.0

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard_images)

    def rows(self, shard: int) -> range:
        """The images of a shard."""
        first = shard * self.shard_images
        return range(first, min(first + self.shard_images, self.images))


@dataclass(frozen=True)
class Shard:
    """A tar of the folder. `kept`: it was there and whole; in no file."""

    name: str
    images: int
    bytes: int
    sha256: str
    kept: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "images": self.images, "bytes": self.bytes, "sha256": self.sha256}


def shard_name(number: int) -> str:
    return f"images-{number:06d}.tar"


def record_path(number: int) -> str:
    return f"{RECORDS}/{number:06d}.json"


def claim(out: Storage, order: Order) -> None:
    """Makes the folder `order`'s; raises UserError if it holds images of another one."""
    wanted = _values(order)
    try:
        begun = out.read_json(ORDER)
    except FileNotFoundError:
        out.write_json(ORDER, wanted)
        return
    except ValueError:
        begun = None
    if not isinstance(begun, dict):
        raise UserError(f"{out.name}: its {ORDER} is damaged; give another --out, or delete the folder")
    for name, value in wanted.items():
        if begun.get(name) != value:
            raise UserError(
                f"{out.name} was begun with {name} {begun.get(name)}, not {value}: ask for the same again"
                f" ({begun.get('model')}@{begun.get('version')}), or give another --out"
            )


def known_shards(out: Storage) -> dict[str, Shard]:
    """By name, those that the manifest tells of; none before it is written."""
    try:
        return {values["name"]: Shard(**values) for values in out.read_json(MANIFEST)["shards"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # a damaged one is made anew
        return {}


def publish(out: Storage, order: Order, generator: dict[str, Any], shards: Sequence[Shard]) -> None:
    """Writes the manifest; `generator` has what else there is to say of the images: their size and classes."""
    values = {**_values(order), **generator, "shards": [shard.to_dict() for shard in shards]}
    out.write_json(MANIFEST, values)
    out.delete_folder(RECORDS)


def _values(order: Order) -> dict[str, Any]:
    return {"schema": SCHEMA, **dataclasses.asdict(order)}
