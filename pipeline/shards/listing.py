"""A source's listing on local disk, so that it need not fit in memory."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ingest.source import Item
from pipeline.progress import Progress, report

LISTING_SCHEMA = pa.schema({"path": pa.string(), "label": pa.string(), "size": pa.int64(), "stamp": pa.string()})

_ROWS = 20_000  # held in memory


def write_listing(items: Iterable[Item], to: Path) -> int:
    """Writes one row an item, in the source's order; returns how many there are."""
    total = 0
    with _uncollected(), pq.ParquetWriter(to, LISTING_SCHEMA, use_dictionary=["label"]) as writer:
        for batch in _batches(items):
            writer.write_table(pa.table(batch, schema=LISTING_SCHEMA))
            total += len(batch["path"])
            report(Progress("scan", total, None))
    report(Progress("scan", total, total))
    return total


@contextmanager
def _uncollected() -> Iterator[None]:
    """Items are in no cycles: to look through a hundred thousand of them for some takes as long as to list them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _batches(items: Iterable[Item]) -> Iterator[dict[str, list]]:
    them = iter(items)
    while batch := list(islice(them, _ROWS)):
        yield dict(zip(Item._fields, map(list, zip(*batch, strict=True)), strict=True))
