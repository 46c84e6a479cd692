"""The index of a shard: where in the tar each sample's image lies, and what it should be."""

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "offset": pa.int64(),  # of the image's bytes in the tar
        "size": pa.int64(),
        "crc32": pa.uint32(),
        "label": pa.int32(),  # -1: none
        "width": pa.int32(),
        "height": pa.int32(),
    }
)

_READ = pa.schema(list(SCHEMA)[:5])

# Of a tar made elsewhere, whose members are not named by the samples' keys.
FOREIGN_SCHEMA = pa.schema(
    [
        *SCHEMA,
        ("name", pa.string()),  # of the image's member
        ("begin", pa.int64()),  # of the sample in the tar, all its headers and members
        ("end", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Index:
    """Columns of equal length, one row a sample, in the tar's order."""

    keys: pa.StringArray
    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray
    label: np.ndarray

    def without(self, keys: set[str]) -> "Index":
        """The view of a version that has removed these samples."""
        if not keys:
            return self
        return self.take(np.flatnonzero([key not in keys for key in self.keys.to_pylist()]))

    def take(self, rows: np.ndarray) -> "Index":
        """These rows, in this order."""
        return Index(
            self.keys.take(pa.array(rows)), self.offset[rows], self.size[rows], self.crc32[rows], self.label[rows]
        )


def write_index(columns: dict[str, list]) -> bytes:
    return to_parquet(pa.table(columns, schema=SCHEMA))


def read_index(data: bytes) -> Index:
    """Raises ValueError if these are not the bytes of an index."""
    try:
        # A third of what `read_table` takes, and shards are opened often.
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        table = file.read(columns=_READ.names, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"not a shard index: {error}") from None
    if table.schema.remove_metadata() != _READ:
        raise ValueError("not a shard index: its columns are others")
    keys = table["key"].combine_chunks() if table["key"].num_chunks != 1 else table["key"].chunk(0)
    return Index(keys, *(table[name].to_numpy() for name in _READ.names[1:]))


def same_rows(data: bytes, columns: dict[str, list]) -> bool:
    """Whether these are the bytes of an index with these columns."""
    try:
        return pq.read_table(io.BytesIO(data)).equals(pa.table(columns, schema=SCHEMA))
    except (pa.ArrowInvalid, OSError):
        return False


def to_parquet(table: pa.Table) -> bytes:
    """The same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
