"""The one writer of shards: encoded images to a WebDataset tar and its index.

The bytes depend on the samples alone: members have integer mtime 0 and no owner.
"""

import io
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.shards.index import same_rows, write_index
from pipeline.shards.manifest import Shard, Split, shard_path
from pipeline.storage import Storage, sha256


@dataclass(frozen=True)
class Encoded:
    """An image as its member's bytes; `label` is -1 where it has none."""

    key: str
    label: int
    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Stored:
    """`reused`: the shard was in storage already."""

    shard: Shard
    reused: bool
    keys: list[str]


def store_shard(storage: Storage, name: str, split: Split, suffix: str, images: Iterable[Encoded]) -> Stored | None:
    """Writes a shard of the dataset `name` with these images in their order, unless it is there already.

    `suffix` is the images' file extension. None where there is no image.
    """
    buffer = io.BytesIO()
    columns: dict[str, list] = {field: [] for field in ("key", "offset", "size", "crc32", "label", "width", "height")}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for image in images:
            if image.label >= 0:
                _add(tar, f"{image.key}.cls", str(image.label).encode())
            offset = _add(tar, f"{image.key}.{suffix}", image.data)
            size, crc32 = len(image.data), zlib.crc32(image.data)
            row = (image.key, offset, size, crc32, image.label, image.width, image.height)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    if not columns["key"]:
        return None
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
        # The index first: a tar is never there without the list of what it holds.
        storage.write(index_path, index_bytes)
        storage.write(tar_path, tar_bytes)
    shard = Shard(name_of_tar, sha256(index_bytes), split, len(columns["key"]), len(tar_bytes))
    return Stored(shard, reused, columns["key"])


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Appends a member and returns the offset of its bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), 0, 0o444
    tar.addfile(member, io.BytesIO(data))
    return tar.offset - (len(data) + tarfile.BLOCKSIZE - 1) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
