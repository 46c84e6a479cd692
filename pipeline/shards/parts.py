"""A part: the encoded images of one chunk, between their reading and the writing of their shards.

    <storage>/datasets/<name>/parts/<digest of the chunk>.part      a mark, a table, the images in key order

An ingest that was interrupted finds in them what it need not do again. Once a version is committed they go.
"""

import pyarrow as pa

from pipeline.shards.manifest import dataset_folder
from pipeline.storage import Storage

# One row a file of the chunk, in the chunk's order. Without an offset there is no image: it was refused, for
# `reason`, or what it holds is known.
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "offset": pa.int64(),  # in the part
        "size": pa.int64(),
        "crc32": pa.uint32(),
        "bytes": pa.int64(),  # of the source file
        "width": pa.int32(),  # of the source image, upright; 0: unknown
        "height": pa.int32(),
        "mode": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
)

# What an ingest found of each file: which row of its listing it is, and in which part its image lies.
PREPARED_SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("part", pa.int32()), *SCHEMA])

_MARK = b"GLP1"
_HEAD = len(_MARK) + 4  # bytes: the mark, and how long the table is
_LONGEST = 256 << 20  # bytes of a table


def parts_folder(name: str) -> str:
    return f"{dataset_folder(name)}/parts"


def part_path(name: str, digest: str) -> str:
    return f"{parts_folder(name)}/{digest}.part"


def write_part(storage: Storage, path: str, table: pa.Table, images: list[bytes]) -> pa.Table:
    """Publishes it; `offset` counts from the first image. Returns the table as `read_part` does."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table)
    head = sink.getvalue()
    storage.write(path, b"".join((_MARK, len(head).to_bytes(4, "big"), head, *images)), durable=False)
    return _placed(table, _HEAD + len(head))


def read_part(storage: Storage, path: str) -> pa.Table | None:
    """Its table, `offset` counting from the part's first byte; None if it is damaged, or not there."""
    try:
        (head,) = storage.read_ranges(path, [(0, _HEAD)])
        size = int.from_bytes(head[len(_MARK) :], "big")
        if not head.startswith(_MARK) or size > _LONGEST:
            return None
        (data,) = storage.read_ranges(path, [(_HEAD, size)])
        table = pa.ipc.open_stream(data).read_all()
    except (FileNotFoundError, ValueError):  # pyarrow's own is one
        return None
    if table.schema != SCHEMA:
        return None
    placed = _placed(table, _HEAD + size)
    # Shorter, it was cut, by a power failure perhaps.
    return placed if storage.size(path) >= max(map(_end, placed.to_pylist())) else None


def _end(row: dict) -> int:
    return row["offset"] + row["size"] if row["offset"] is not None else 0


def _placed(table: pa.Table, begin: int) -> pa.Table:
    offsets = pa.array((None if at is None else at + begin for at in table["offset"].to_pylist()), pa.int64())
    return table.set_column(SCHEMA.get_field_index("offset"), SCHEMA.field("offset"), offsets)
