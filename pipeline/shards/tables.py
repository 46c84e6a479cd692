"""Tables of any size on local disk, through DuckDB with a memory limit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

_LIMITS: dict[str, Any] = {"memory_limit": "400MB", "threads": 2}


class Tables:
    """A database in `folder`, which holds what does not fit in memory too. Close it when done."""

    def __init__(self, folder: Path):
        self.folder = folder
        spilled = {"temp_directory": str(folder / "spilled")}
        self._database = duckdb.connect(str(folder / "tables.duckdb"), config={**_LIMITS, **spilled})
        self._database.execute("SET enable_progress_bar = false")

    def __enter__(self) -> "Tables":
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def run(self, statements: str, given: pa.Table | None = None, **values: Any) -> None:
        """SQL with `values` in the place of {names}; `given` is a table of that name."""
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
        self.run(f"COPY ({query}) TO {{to}} (FORMAT parquet)", given, to=to, **values)

    def publish(self, query: str, to: Path, schema: pa.Schema, group: int) -> None:
        """Writes a query's rows for good: the same rows give the same bytes. `group` rows are in memory at once."""
        with pq.ParquetWriter(to, schema, compression="zstd") as writer:
            for table in _groups(self._database.sql(query).to_arrow_reader(group), schema, group):
                writer.write_table(table, row_group_size=group)


def _groups(batches: pa.RecordBatchReader, schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """In tables of exactly `rows` rows, but for the last; one without rows if there are none at all."""
    waiting = schema.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).cast(schema)])
        while waiting.num_rows > rows:
            yield waiting.slice(0, rows).combine_chunks()
            waiting = waiting.slice(rows)
    yield waiting.combine_chunks()


def _literal(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'" if isinstance(value, str | Path) else str(value)
