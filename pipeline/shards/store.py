"""The one writer of shards: encoded images to a WebDataset tar and its index.

The bytes depend on the samples alone: members have integer mtime 0 and no owner.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from isal import isal_zlib

from pipeline.shards.index import same_rows, write_index
from pipeline.shards.manifest import Shard, Split, shard_path
from pipeline.shards.ustar import BLOCK, end, member
from pipeline.storage import Storage, sha256


@dataclass(frozen=True, slots=True)
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


def store_shard(storage: Storage, name: str, split: Split, suffix: str, images: Sequence[Encoded]) -> Stored:
    """Writes a shard of the dataset `name` with these images, one at least, in their order, unless it is there already.

    `suffix` is the images' file extension.
    """
    pieces, offsets, at = list[bytes](), list[int](), 0
    for image in images:
        if image.label >= 0:
            pieces += member(f"{image.key}.cls", str(image.label).encode())
            at += 2 * BLOCK
        head, data, padding = member(f"{image.key}.{suffix}", image.data)
        pieces += (head, data, padding)
        offsets.append(at + BLOCK)
        at += BLOCK + len(data) + len(padding)
    pieces.append(end(at))
    tar_bytes = b"".join(pieces)
    columns: dict[str, list] = {
        "key": [image.key for image in images], "offset": offsets, "size": [len(image.data) for image in images],
        "crc32": [isal_zlib.crc32(image.data) for image in images], "label": [image.label for image in images],
        "width": [image.width for image in images], "height": [image.height for image in images],
    }  # fmt: skip
    index_bytes, name_of_tar = write_index(columns), sha256(tar_bytes)
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
    return Stored(Shard(name_of_tar, sha256(index_bytes), split, len(images), len(tar_bytes)), reused)
