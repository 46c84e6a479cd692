"""One shard: images decoded, brought to size, and written as a WebDataset tar with its index.

The bytes depend on the samples alone: members come in key order with integer mtime 0 and no owner.
"""

import hashlib
import io
import tarfile
import zlib
from dataclasses import dataclass

from pipeline.ingest.image import ImageRules, InvalidImage, decode
from pipeline.ingest.source import Source, read_one
from pipeline.shards.encoding import JPEG_QUALITY, encode, suffix
from pipeline.shards.index import same_rows, write_index
from pipeline.shards.manifest import Shard, Split, shard_path
from pipeline.storage import Storage, sha256


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
    buffer = io.BytesIO()
    columns: dict[str, list] = {field: [] for field in ("key", "offset", "size", "crc32", "label", "width", "height")}
    rejected = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in sorted(samples, key=lambda sample: sample.key):
            try:
                image = decode(read_one(source, sample.path), rules)
            except InvalidImage as error:
                rejected.append(Rejected(sample.key, sample.path, error.reason, error.detail))
                continue
            data = encode(image.pixels, encoding, quality)
            if sample.label >= 0:
                _add(tar, f"{sample.key}.cls", str(sample.label).encode())
            offset = _add(tar, f"{sample.key}.{suffix(encoding)}", data)
            row = (sample.key, offset, len(data), zlib.crc32(data), sample.label, rules.resolution, rules.resolution)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    if not columns["key"]:
        return WrittenShard(None, False, rejected, [])
    tar_bytes, index_bytes = buffer.getvalue(), write_index(columns)
    name_of_tar = sha256(tar_bytes)
    tar_path, index_path = (shard_path(name, name_of_tar, kind) for kind in ("tar", "parquet"))
    reused = storage.exists(tar_path) and storage.exists(index_path)
    if reused:
        # Another pyarrow may have put the same rows in other bytes, which manifests name: those stay.
        stored = storage.read(index_path)
        reused = same_rows(stored, columns)
        index_bytes = stored if reused else index_bytes
    if not reused:
        storage.write(index_path, index_bytes)
        storage.write(tar_path, tar_bytes)
    shard = Shard(name_of_tar, sha256(index_bytes), split, len(columns["key"]), len(tar_bytes))
    return WrittenShard(shard, reused, rejected, columns["key"])


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Appends a member and returns the offset of its bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), 0, 0o444
    tar.addfile(member, io.BytesIO(data))
    return tar.offset - (len(data) + tarfile.BLOCKSIZE - 1) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
