"""A chunk of source files, read, named by their content, decoded, brought to size and encoded: one task each."""

from typing import NamedTuple

import pyarrow as pa
from isal import isal_zlib

from pipeline.ingest.image import InvalidImage, decode
from pipeline.shards.chunks import Chunk
from pipeline.shards.encoding import encode
from pipeline.shards.job import Job, opened
from pipeline.shards.parts import SCHEMA, part_path, read_part, write_part
from pipeline.shards.write import content_key


class Prepared(NamedTuple):
    """What became of a chunk: the name of its part, and of each file its `id` and the columns of a part."""

    part: str
    table: pa.Table


def prepare_chunk(job: Job, chunk: Chunk) -> Prepared:
    """The files of a chunk in its order; writes a part unless no image came of it."""
    path = part_path(job.name, chunk.digest)
    table = read_part(job.storage, path) if chunk.finished else None
    return _numbered(_prepare(job, chunk, path) if table is None else table, chunk)


def _prepare(job: Job, chunk: Chunk, path: str) -> pa.Table:
    rows, images = list[tuple](), dict[str, bytes]()
    paths, known_keys = chunk.paths, chunk.rows["known"].to_pylist()
    for name, known, data in zip(paths, known_keys, opened(job).read(paths), strict=True):
        if isinstance(data, InvalidImage):
            rows.append(_refused(unread_key(name), 0, data))
            continue
        key = content_key(data)
        if key == known:
            rows.append((key, None, None, None, len(data), 0, 0, "", "", ""))
            continue
        try:
            image = decode(data, job.rules, name)
        except InvalidImage as why:
            rows.append(_refused(key, len(data), why))
            continue
        encoded = images.get(key) or images.setdefault(key, encode(image.pixels, job.encoding, job.quality))
        size, crc32 = len(encoded), isal_zlib.crc32(encoded)
        rows.append((key, 0, size, crc32, len(data), image.width, image.height, image.mode, "", ""))
    begins, at = dict[str, int](), 0
    for key in sorted(images):
        begins[key], at = at, at + len(images[key])
    columns = dict(zip(SCHEMA.names, map(list, zip(*rows, strict=True)), strict=True))
    columns["offset"] = [begins[row[0]] if row[1] is not None else None for row in rows]
    table = pa.table(columns, schema=SCHEMA)
    return write_part(job.storage, path, table, [images[key] for key in begins]) if images else table


def key_of(job: Job, path: str) -> str:
    """Of one file, which is read but not decoded."""
    (data,) = opened(job).read([path])
    return unread_key(path) if isinstance(data, InvalidImage) else content_key(data)


def unread_key(path: str) -> str:
    """In place of the key of a content that nobody has seen."""
    return content_key(b"unreadable " + path.encode())


def refused(chunk: Chunk, key: str, why: InvalidImage) -> Prepared:
    """What `prepare_chunk` would give of a chunk of one file, had it found `why` to refuse it."""
    return _numbered(pa.table([[value] for value in _refused(key, 0, why)], schema=SCHEMA), chunk)


def _refused(key: str, size: int, why: InvalidImage) -> tuple:
    return key, None, None, None, size, 0, 0, "", why.reason, why.detail


def _numbered(table: pa.Table, chunk: Chunk) -> Prepared:
    return Prepared(chunk.digest, table.add_column(0, "id", chunk.rows["id"]))
