"""What an index says of the samples of a tar, for the checks: never more than its bytes bear."""

import io
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq

from pipeline.shards.encoding import suffix
from pipeline.shards.index import Index, read_index
from pipeline.shards.manifest import FOREIGN, Manifest
from pipeline.shards.tar import key_of, padded

_MOST = 1 << 60  # bytes


@dataclass(frozen=True)
class Rows:
    """What the indexes say of a tar's samples. `name`: of the image's member; `begin` and `end`: of a sample's part."""

    name: list[str]
    offset: list[int]
    size: list[int]
    crc32: list[int]
    label: list[int]
    begin: list[int]
    end: list[int]

    def key(self, row: int) -> str:
        return key_of(self.name[row])


def read_sound_index(data: bytes) -> Index | None:
    """The index, unless it is too damaged to be used."""
    try:
        rows = read_index(data)
        numbers = (rows.offset, rows.size, rows.crc32, rows.label)
        whole = None not in rows.keys.to_pylist() and all(np.issubdtype(column.dtype, np.integer) for column in numbers)
        placed = all(((column >= 0) & (column < _MOST)).all() for column in (rows.offset, rows.size))
    except Exception:  # a damaged Parquet file makes its reader raise anything
        return None
    return rows if whole and placed else None


def rows_of(data: bytes, index: Index, manifest: Manifest) -> Rows | None:
    """With the names and places in the tar that an index tells of, or lets be told."""
    offset, size = index.offset.tolist(), index.size.tolist()
    columns = (offset, size, index.crc32.tolist(), index.label.tolist())
    if manifest.encoding != FOREIGN:
        names = [f"{key}.{suffix(manifest.encoding)}" for key in index.keys.to_pylist()]
        # A sample's part of the tar goes from the end of the image before it to the end of its own.
        ends = [padded(begin + length) for begin, length in zip(offset, size, strict=True)]
        begins = {end: begin for begin, end in pairwise([0, *sorted(ends)])}
        return Rows(names, *columns, [begins[end] for end in ends], ends)
    try:
        table = pq.read_table(io.BytesIO(data), columns=["name", "begin", "end"])
        names, begins_in, ends_in = (table[column].to_pylist() for column in ("name", "begin", "end"))
        whole = all(isinstance(name, str) for name in names)
        whole &= all(isinstance(at, int) and 0 <= at < _MOST for at in [*begins_in, *ends_in])
    except Exception:  # the same
        return None
    return Rows(names, *columns, begins_in, ends_in) if whole and len(names) == len(offset) else None


def together(sides: list[Rows]) -> Rows:
    """The rows of all that are in one tar."""
    return Rows(*([value for side in sides for value in getattr(side, field.name)] for field in fields(Rows)))
