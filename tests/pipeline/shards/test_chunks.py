"""Which files a task reads together."""

import pyarrow as pa
import pytest

from pipeline.config import Data
from pipeline.shards import chunks
from pipeline.shards.job import make_job
from pipeline.storage import Storage


@pytest.fixture
def cut(tmp_path, monkeypatch):
    """Chunks of files of these sizes, listed `at_once` at a time, and numbered from `begin`."""
    monkeypatch.setattr(chunks, "_LEAST", 3)
    monkeypatch.setattr(chunks, "_MOST_READ", 100)
    job = make_job(Storage(str(tmp_path)), "a", Data.model_validate({"source": "mnist5k"}))

    def cut(sizes: list[int], at_once: int = 100, begin: int = 0) -> list[chunks.Chunk]:
        numbers = range(begin, begin + len(sizes))
        rows = {
            "id": numbers, "path": [f"{n}.png" for n in numbers], "stamp": [f"{n}-1" for n in numbers], "size": sizes,
            "known": pa.array([None if n % 2 else "0" * 32 for n in numbers], pa.string()),
        }  # fmt: skip
        batches = pa.table(rows).to_batches(max_chunksize=at_once)
        return list(chunks.chunks_of(job, batches, len(sizes), set(), False))

    return cut


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 100])
def test_a_chunk_is_full_at_a_number_of_files_or_of_bytes(cut, at_once):
    sizes = [1, 1, 1, 60, 40, 0, 60, 41, 500, 1, 1]
    found = cut(sizes, at_once)
    assert [chunk.rows["id"].to_pylist() for chunk in found] == [[0, 1, 2], [3, 4, 5], [6], [7], [8], [9, 10]]
    assert [path for chunk in found for path in chunk.paths] == [f"{n}.png" for n in range(len(sizes))]
    assert found[-1].rows["known"].to_pylist() == [None, "0" * 32]


def test_the_same_files_are_the_same_chunk_wherever_they_were_listed(cut):
    """Else what an interrupted ingest has prepared would not be found."""
    among = cut([1] * 9)[1]
    (alone,) = cut([1] * 3, begin=3)
    assert among.digest == alone.digest
    assert len({chunk.digest for chunk in cut([1] * 9)}) == 3
