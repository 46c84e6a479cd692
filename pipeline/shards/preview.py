"""What an ingest would have to read, found out without doing it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Data
from pipeline.ingest.source import Source
from pipeline.shards.listing import write_listing
from pipeline.shards.manifest import DatasetRef
from pipeline.shards.plan import compare, take_before
from pipeline.shards.tables import Tables
from pipeline.shards.version import read_before
from pipeline.storage import Storage


@dataclass(frozen=True)
class Unread:
    """Of a source: its files, their classes, how many files would be opened; `dataset` is what others lie in."""

    files: int
    classes: int
    to_read: int
    dataset: DatasetRef | None


def unread(storage: Storage, name: str, data: Data, source: Source) -> Unread:
    """Writes nothing to storage."""
    with tempfile.TemporaryDirectory(prefix="ganline-") as folder, Tables(Path(folder)) as tables:
        files = write_listing(source.items(), listing := tables.folder / "listing.parquet")
        before = read_before(storage, name, data, tables.folder)
        take_before(tables, [shard.sha256 for shard in before.shards], before.sources, before.removed)
        to_read = compare(tables, listing)
        return Unread(files, tables.one("SELECT count(DISTINCT label) FROM listing"), to_read, before.dataset)
