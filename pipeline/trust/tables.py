"""The sources of dataset versions, asked in SQL, out of core: memory does not grow with their number."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import duckdb
import pyarrow.dataset as arrow

from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage

_MEMORY = "256MB"

# Versions of before these were recorded have no such columns.
_OPTIONAL = {"bytes": "0::BIGINT", "width": "0", "height": "0", "mode": "''"}


@contextmanager
def open_tables(storage: Storage, **versions: DatasetRef) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with a view for each version, by keyword: its `sources.parquet`, one row a source file.

    Where a size was not recorded, `width` and `height` are 0; a mode is then empty. Raises FileNotFoundError for a
    version without the table.
    """
    with TemporaryDirectory(prefix="ganline-tables-") as folder:
        settings: dict = {
            "memory_limit": _MEMORY,
            "temp_directory": folder,
            # Nothing is fetched, and no name in a query means a variable of ours.
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        }
        with duckdb.connect(config=settings) as database:
            for name, version in versions.items():
                filesystem, path = storage.locate(f"{version.folder}/sources.parquet")
                table = arrow.dataset(path, filesystem=filesystem, format="parquet")
                database.register(f"{name}_file", table)
                absent = [
                    f"{value} AS {column}" for column, value in _OPTIONAL.items() if column not in table.schema.names
                ]
                database.execute(f"CREATE TEMP VIEW {name} AS SELECT {', '.join(['*', *absent])} FROM {name}_file")
            yield database
