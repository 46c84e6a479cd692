"""Images that go from old shards to new ones: where they are, by the old shards' indexes."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunFailed
from pipeline.shards.index import read_index
from pipeline.shards.manifest import Shard, shard_path
from pipeline.storage import Storage, sha256

STORED_SCHEMA = pa.schema(
    {"shard": pa.int32(), "key": pa.string(), "offset": pa.int64(), "size": pa.int64(), "crc32": pa.uint32()}
)


def write_stored(storage: Storage, name: str, shards: Iterable[tuple[int, Shard]], to: Path) -> None:
    """One row an image of the numbered shards. Raises RunFailed where an index is not what its manifest names."""
    with pq.ParquetWriter(to, STORED_SCHEMA) as writer:
        for number, shard in shards:
            data = storage.read(path := shard_path(name, shard.sha256, "parquet"))
            if sha256(data) != shard.index_sha256:
                raise RunFailed(f"{path} in {storage.name} is damaged; delete it and shard the images again")
            index = read_index(data)
            numbers = pa.array([number] * len(index.keys), pa.int32())
            columns = [numbers, index.keys, index.offset, index.size, index.crc32]
            writer.write_table(pa.table(columns, schema=STORED_SCHEMA))
