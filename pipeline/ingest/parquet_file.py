"""Image bytes in Parquet: a binary column, or Hugging Face's `struct<bytes, path>`.

An item's path is `file.parquet#row`. Rows are read in batches, row group by row group, from the column of the
images alone; a run of neighbours is one read forward.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.item import Item
from pipeline.ingest.layout import arrange
from pipeline.ingest.located import Located
from pipeline.ingest.options import AUTO, Options
from pipeline.ingest.parquet_columns import image_column, label_column, label_names
from pipeline.ingest.place import Place
from pipeline.ingest.reading import Held
from pipeline.patience import first_line

_BUFFER = 1 << 20  # bytes read at a time, whatever the size of a row group
_ROWS = 32  # images decoded at a time
_LABELS = 10_000
_DAMAGE = (pa.ArrowException, OSError)


class ParquetSource(Located):
    """One file or all below a folder, in the order of their names. Labels: the column `label`, with the class
    names that Hugging Face keeps in the schema, or `column:NAME`."""

    def __init__(self, uri: str, options: Options = AUTO):
        super().__init__(uri, options)
        self._held = Held(self.place, self._open)

    def items(self) -> Iterator[Item]:
        return arrange(self._list(), str(self.place), self.options)

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        split = ((name, int(row)) for name, _, row in (path.rpartition("#") for path in paths))
        for name, run in groupby(split, key=lambda pair: pair[0]):
            try:
                rows = self._held.get(self.place.join(name))
            except FileNotFoundError:
                yield from (InvalidImage("unreadable", f"{name} is gone") for _ in run)
                continue
            for _, row in run:
                yield rows.get(row)

    def _list(self) -> Iterator[Item]:
        for file in self.place.files(_is_parquet):
            path = self.place.join(file.path)
            try:
                yield from _rows(self._open(path), file, path, self.options)
            except _DAMAGE as error:
                raise _broken(path, error) from None

    def _open(self, path: str) -> "_Rows":
        """Raises FileNotFoundError, UserError."""
        # Arrow has its own, quicker, file on local disk; from the others each range comes whole, or is Unavailable.
        try:
            file = self.place.filesystem.open_input_file(path) if self.place.is_local else self.place.open(path)
            return _Rows(pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False), path, self.options)
        except FileNotFoundError:
            raise
        except _DAMAGE as error:
            raise _broken(path, error) from None


class _Rows:
    """One open file, and where in it the last row was read."""

    def __init__(self, file: pq.ParquetFile, path: str, options: Options):
        self.file = file
        self.column = image_column(file.schema_arrow, path, options.image_column)
        self.starts = [0]  # first row of each row group, and the end
        for group in range(file.num_row_groups):
            self.starts.append(self.starts[-1] + file.metadata.row_group(group).num_rows)
        self._next, self._end = 0, 0
        self._values: Iterator[Any] = iter(())

    def get(self, row: int) -> bytes | InvalidImage:
        """Quick where `row` comes after the row before it, in the same row group."""
        if not 0 <= row < self.starts[-1]:
            return InvalidImage("unreadable", "no longer in the table")
        if not self._next <= row < self._end:
            group = next(group for group, end in enumerate(self.starts[1:]) if row < end)
            self._next, self._end = self.starts[group], self.starts[group + 1]
            self._values = _values(self.file, group, self.column)
        before, self._next = self._next, row + 1
        try:
            for _ in range(row - before):
                next(self._values)
            value = next(self._values)
        except _DAMAGE as error:
            return InvalidImage("corrupt", f"damaged in the table: {error}")
        except StopIteration:
            return InvalidImage("corrupt", "damaged in the table: a row before it in its row group could not be read")
        return value if isinstance(value, bytes) else InvalidImage("empty", "no bytes in this row")


def _values(file: pq.ParquetFile, group: int, column: str) -> Iterator[Any]:
    """Of one column over one row group, in little memory."""
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[column]):
        array = batch.column(0)
        for scalar in array.field("bytes") if pa.types.is_struct(array.type) else array:
            yield scalar.as_py()


def _rows(rows: _Rows, file: Item, path: str, options: Options) -> Iterator[Item]:
    column = label_column(rows.file.schema_arrow, path, options) if options.own_labels else None
    names = label_names(rows.file.schema_arrow, column)
    row = 0
    for group in range(rows.file.num_row_groups):
        known = rows.file.metadata.row_group(group)
        size = _bytes_of(known, rows.column) // max(known.num_rows, 1)
        for label in _labels(rows.file, group, known.num_rows, column, names):
            yield Item(f"{file.path}#{row}", label, size, f"{file.stamp}-{row}")
            row += 1


def _labels(
    file: pq.ParquetFile, group: int, rows: int, column: str | None, names: list[str] | None
) -> Iterator[str | None]:
    if column is None:
        yield from (None for _ in range(rows))
        return
    for batch in file.iter_batches(_LABELS, row_groups=[group], columns=[column]):
        for value in batch.column(0).to_pylist():
            if names is not None and isinstance(value, int):
                yield names[value] if 0 <= value < len(names) else None  # -1 is Hugging Face's "no label"
            else:
                yield None if value is None else str(value)


def _bytes_of(group: Any, column: str) -> int:
    chunks = (group.column(index) for index in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _broken(path: str, error: BaseException) -> UserError:
    return UserError(f"cannot read {path}: {first_line(error)}; make or copy it again")


def recognise(place: Place, options: Options) -> ParquetSource | None:
    found = place.holds(_is_parquet) if place.is_folder else place.start.startswith(b"PAR1")
    return ParquetSource(place.uri, options) if found else None
