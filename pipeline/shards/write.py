"""One shard: images decoded, brought to size, and written in key order."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.ingest.image import ImageRules, InvalidImage, decode
from pipeline.ingest.source import Source, read_one
from pipeline.shards.encoding import JPEG_QUALITY, encode, suffix
from pipeline.shards.manifest import Shard, Split
from pipeline.shards.tar import Encoded, store_shard
from pipeline.storage import Storage


@dataclass(frozen=True)
class Sample:
    """An image still to be read: its key, its path in the source, its class (-1: none)."""

    key: str
    path: str
    label: int


@dataclass(frozen=True)
class Rejected:
    key: str
    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class WrittenShard:
    """`shard` is None where no sample was valid. `reused`: the tar was in storage already."""

    shard: Shard | None
    reused: bool
    rejected: list[Rejected]
    keys: list[str]


def content_key(data: bytes) -> str:
    """The key of an image, 32 hex digits over its file's bytes: its name, its place, and its side of the split."""
    return hashlib.blake2b(data, digest_size=16, key=b"ganline-order-1").hexdigest()


def is_held_out(key: str, share: float) -> bool:
    """By content alone, so that an image never changes sides."""
    return int(key[:8], 16) < share * 2**32


def write_shard(
    storage: Storage,
    name: str,
    source: Source,
    samples: list[Sample],
    split: Split,
    rules: ImageRules,
    encoding: str,
    quality: int = JPEG_QUALITY,
) -> WrittenShard:
    """Writes the valid images of `samples`, in key order, unless the same shard is there already."""
    rejected: list[Rejected] = []
    stored = store_shard(
        storage, name, split, suffix(encoding), _encoded(source, samples, rules, encoding, quality, rejected)
    )
    if stored is None:
        return WrittenShard(None, False, rejected, [])
    return WrittenShard(stored.shard, stored.reused, rejected, stored.keys)


def _encoded(
    source: Source, samples: list[Sample], rules: ImageRules, encoding: str, quality: int, rejected: list[Rejected]
) -> Iterator[Encoded]:
    """The valid images in key order; the others go to `rejected`."""
    for sample in sorted(samples, key=lambda sample: sample.key):
        try:
            image = decode(read_one(source, sample.path), rules, sample.path)
        except InvalidImage as error:
            rejected.append(Rejected(sample.key, sample.path, error.reason, error.detail))
            continue
        yield Encoded(
            sample.key, sample.label, encode(image.pixels, encoding, quality), rules.resolution, rules.resolution
        )
