"""Tables of any size on local disk, through DuckDB with a memory limit."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

_LIMITS: dict[str, Any] = {"memory_limit": "350MB", "threads": 2, "preserve_insertion_order": False}
_LITTLE = 64 << 20  # bytes that Arrow held at most


class Tables:
    """A database in `folder`, which holds what does not fit in memory too. Close it when done."""

    def __init__(self, folder: Path):
        self.folder = folder
        spilled = {"temp_directory": str(folder / "spilled")}
        self._database = duckdb.connect(config={**_LIMITS, **spilled})
        self._database.execute("SET enable_progress_bar = false")

    def __enter__(self) -> "Tables":
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def run(self, statements: str, given: pa.Table | None = None, **values: Any) -> None:
        """SQL with `values` in the place of {names}; `given` is a table of that name."""
        _give_back()
        if given is not None:
            self._database.register("given", given)
        self._database.execute(statements.format(**{name: _literal(value) for name, value in values.items()}))

    def rows(self, query: str, **values: Any) -> list[tuple]:
        self.run(query, **values)
        return self._database.fetchall()

    def one(self, query: str, **values: Any) -> Any:
        ((value,),) = self.rows(query, **values)
        return value

    def copy(self, query: str, to: Path, given: pa.Table | None = None, **values: Any) -> None:
        """Writes a query's rows, in its order, for another step to read."""
        self.run(f"COPY ({query}) TO {{to}} (FORMAT parquet, COMPRESSION lz4_raw)", given, to=to, **values)


def in_pieces(file: Path | pa.NativeFile) -> pq.ParquetFile:
    """A table to read batch by batch; else Arrow would keep all that it has read until the file is closed."""
    return pq.ParquetFile(file, pre_buffer=False)


def publish(files: list[Path], to: Path, schema: pa.Schema, group: int, repeating: Sequence[str] | None = None) -> None:
    """Columns from files of as many rows each, side by side: the same rows give the same bytes.

    `group` rows are in memory at once. `repeating`: the columns that have few different values; None: all may.
    """
    dictionary = True if repeating is None else list(repeating)
    with ExitStack() as stack:
        writer = stack.enter_context(pq.ParquetWriter(to, schema, compression="zstd", use_dictionary=dictionary))
        readers = [stack.enter_context(in_pieces(file)) for file in files]
        for tables in zip(*(_groups(reader, group) for reader in readers), strict=True):
            columns = {name: table[name] for table in tables for name in table.column_names}
            writer.write_table(pa.table({name: columns[name] for name in schema.names}).cast(schema), group)
            _give_back()


def _groups(file: pq.ParquetFile, rows: int) -> Iterator[pa.Table]:
    """In tables of exactly `rows` rows, but for the last; one without rows if there are none at all."""
    waiting = file.schema_arrow.empty_table()
    for batch in file.iter_batches(rows):
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        while waiting.num_rows > rows:
            yield waiting.slice(0, rows).combine_chunks()
            waiting = waiting.slice(rows)
    yield waiting.combine_chunks()


def _give_back() -> None:
    """What Arrow keeps for later is beside DuckDB's limit, and grows with the rows; a little is not worth the time
    to fetch it again."""
    pool = pa.default_memory_pool()
    if (pool.max_memory() or _LITTLE) >= _LITTLE:
        pool.release_unused()


def _literal(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'" if isinstance(value, str | Path) else str(value)
