"""Shards of generated images in parallel, one a Ray task.

A task holds a shard in memory, this process a line for each. Stopped or killed at any time, the same call goes on: what
is there and whole is kept.
"""

from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import RunFailed
from pipeline.generation.alone import alone
from pipeline.generation.order import Order, Shard, claim, known_shards, publish, shard_name
from pipeline.generation.write import Job, Task, write_shard
from pipeline.on_ray import TRIES, Died, cluster, insisting, run_tasks
from pipeline.progress import Progress, note, report
from pipeline.registry.generator import Generator, files_of
from pipeline.storage import Storage


@dataclass(frozen=True)
class Generated:
    written: int
    kept: int


def generate_shards(out: Storage, order: Order, generator: Generator) -> Generated:
    """Writes `order` into the folder `out`: its tars, and last their manifest.

    Raises UserError for a folder with images of another order, or while another process writes there, OSError where it
    can not be written.
    """
    with alone(out) as held:
        claim(out, order)
        shards = _written(out, order, generator)
        _check_there(out, shards)
        kept = sum(shard.kept for shard in shards)
        if kept:
            note(f"{kept:,} of {len(shards):,} shards were there, and whole; they are not made again")
        spec = generator.spec
        size = {"resolution": spec.resolution, "channels": spec.channels, "classes": list(generator.class_names)}
        held.check()
        publish(out, order, size, shards)
    return Generated(len(shards) - kept, kept)


def _written(out: Storage, order: Order, generator: Generator) -> list[Shard]:
    known = known_shards(out)
    job = Job(out, order, *files_of(generator))
    tasks = (Task(number, known.get(shard_name(number))) for number in range(order.shards))
    shards, done = list[Shard](), 0
    report(Progress("generate", 0, order.images))
    try:
        with cluster():
            for result in insisting(run_tasks, write_shard, job, tasks):
                shards.append(_alive(result, order))
                done += shards[-1].images
                report(Progress("generate", done, order.images))
    finally:
        _sweep(out)
    return shards


def _alive(result: Shard | Died, order: Order) -> Shard:
    if isinstance(result, Died):
        raise RunFailed(
            f"the task that writes {len(order.rows(result.argument.number)):,} images died {TRIES} times;"
            " it may need more memory than there is: lower --shard-images"
        )
    return result


def _check_there(out: Storage, shards: list[Shard]) -> None:
    """Tasks run on other machines too, and a local path is another place there."""
    sizes = {entry.path.rpartition("/")[2]: entry.size for entry in out.list("")}
    for shard in shards:
        if sizes.get(shard.name) != shard.bytes:
            raise RunFailed(
                f"{shard.name} was written, but {out.name} has it not as it was; if Ray runs on several machines,"
                " give a --out that all of them see"
            )


def _sweep(out: Storage) -> None:
    """What killed processes had begun to write on local disk; an object store shows nothing of that."""
    if out.is_local:
        for path in out.local_path().glob(".images-*.tar.*.tmp"):
            with suppress(FileNotFoundError):
                path.unlink()
