"""Encoded images from where they lie, in parts and in older shards, with few and long reads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from isal import isal_zlib

from pipeline.errors import RunFailed
from pipeline.storage import Storage

_GAP = 4096  # bytes between two images that are read along, a tar's headers for instance
_LONGEST = 8 << 20  # bytes a read
_AT_ONCE = 16  # files of an object store


class Row(NamedTuple):
    """An image: its key, its class (-1: none), and where its bytes are. `file` is a path in storage."""

    key: str
    label: int
    file: str
    offset: int
    size: int
    crc32: int


def gather(storage: Storage, rows: list[Row]) -> list[bytes]:
    """The bytes of each row. Raises RunFailed for a file that is missing or damaged: deleted, it is made anew."""
    files = dict[str, list[int]]()
    for place in sorted(range(len(rows)), key=lambda place: rows[place].offset):
        files.setdefault(rows[place].file, []).append(place)
    found = [b""] * len(rows)

    def fetch(file: str) -> None:
        runs = list(_runs(rows, files[file]))
        try:
            blocks = storage.read_ranges(file, [(begin, size) for begin, size, _ in runs])
            for block, (begin, _, places) in zip(blocks, runs, strict=True):
                for place in places:
                    row = rows[place]
                    data = block[row.offset - begin : row.offset - begin + row.size]
                    if isal_zlib.crc32(data) != row.crc32:
                        raise _damaged(storage, file)
                    found[place] = data
        except FileNotFoundError:
            raise RunFailed(f"{file} is missing from {storage.name}; shard the images again") from None
        except ValueError:
            raise _damaged(storage, file) from None

    if storage.is_local:
        for file in files:
            fetch(file)
    else:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(fetch, files))
    return found


def _damaged(storage: Storage, file: str) -> RunFailed:
    return RunFailed(f"{file} in {storage.name} is damaged; delete it and shard the images again")


def _runs(rows: list[Row], places: list[int]) -> Iterator[tuple[int, int, list[int]]]:
    """Neighbours as one read: where it begins, its size, the rows in it. `places` are in the order of offsets."""
    run, begin, end = list[int](), 0, 0
    for place in places:
        offset, after = rows[place].offset, rows[place].offset + rows[place].size
        if run and (offset - end > _GAP or after - begin > _LONGEST):
            yield begin, end - begin, run
            run = []
        if not run:
            begin = end = offset
        run.append(place)
        end = max(end, after)
    if run:
        yield begin, end - begin, run
