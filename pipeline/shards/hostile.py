"""Chunks whose task dies: the image that kills it is found and refused, and all others are prepared."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from pipeline.ingest.image import InvalidImage
from pipeline.on_ray import Died
from pipeline.shards.chunks import Chunk
from pipeline.shards.job import Job
from pipeline.shards.prepare import Prepared, key_of, refused, unread_key

_WHY = InvalidImage("kills_the_worker", "the process that decodes it dies, or takes more memory than there is")

Prepare = Callable[[Job, Chunk], Prepared]
Run = Callable[[Callable[..., Any], Job, Iterable[Any]], Iterator[Any]]


def surviving(run: Run, prepare: Prepare, job: Job, chunks: Iterable[Chunk]) -> Iterator[Prepared]:
    """What `run` gives for each chunk; more than one result for a chunk that was taken apart."""
    for result in run(prepare, job, chunks):
        if isinstance(result, Died):
            # Once more as it is: a node may have died of other things.
            yield from _taken_apart(run, prepare, job, [result.argument])
        else:
            yield result


def _taken_apart(run: Run, prepare: Prepare, job: Job, chunks: list[Chunk]) -> Iterator[Prepared]:
    for result in run(prepare, job, chunks):
        if not isinstance(result, Died):
            yield result
        elif len(result.argument.rows) > 1:
            yield from _taken_apart(run, prepare, job, _halves(result.argument))
        else:
            yield _last_try(run, prepare, job, result.argument)


def _last_try(run: Run, prepare: Prepare, job: Job, chunk: Chunk) -> Prepared:
    (result,) = run(prepare, job, [chunk])
    if not isinstance(result, Died):
        return result
    (key,) = run(key_of, job, chunk.paths)
    return refused(chunk, unread_key(chunk.paths[0]) if isinstance(key, Died) else key, _WHY)


def _halves(chunk: Chunk) -> list[Chunk]:
    middle = len(chunk.rows) // 2
    return [
        replace(chunk, rows=rows, digest=blake2b(f"{chunk.digest} {half}".encode(), digest_size=16).hexdigest())
        for half, rows in enumerate((chunk.rows.slice(0, middle), chunk.rows.slice(middle)))
    ]
