"""One shard of generated images: `000000042.png` and, beside it, `000000042.json` with index, seed, label and class."""

from dataclasses import dataclass

from pipeline.digest import canonical_json
from pipeline.evaluation.one_thread import one_thread
from pipeline.generation.order import Order, Shard, record_path, shard_name
from pipeline.pictures import to_png
from pipeline.provenance import Provenance
from pipeline.registry.generator import BATCH, Generator, opened
from pipeline.shards.ustar import end, member
from pipeline.storage import Storage, sha256


@dataclass(frozen=True)
class Job:
    """What the tasks share: where to, what, and the generator as a release's files have it."""

    out: Storage
    order: Order
    weights: bytes
    document: bytes


@dataclass(frozen=True)
class Task:
    """A shard to write, and what the manifest says of it, if there is one."""

    number: int
    known: Shard | None = None


def write_shard(job: Job, task: Task) -> Shard:
    """Writes the shard and then its record, unless it is there and has the sha256 that it was written with.

    The same bytes whatever the number of cores. Raises OSError where it can not be written.
    """
    name, rows = shard_name(task.number), job.order.rows(task.number)
    known = task.known or _recorded(job.out, task.number)
    if known and known.name == name and known.images == len(rows) and _is_whole(job.out, known):
        return Shard(name, known.images, known.bytes, known.sha256, kept=True)
    with one_thread():
        tar = _tar(opened(job.weights, job.document), job.order, rows)
    job.out.write(name, tar)
    shard = Shard(name, len(rows), len(tar), sha256(tar))
    job.out.write_json(record_path(task.number), shard.to_dict())
    return shard


def _tar(generator: Generator, order: Order, rows: range) -> bytes:
    names = generator.class_names
    one = names.index(order.label) if order.label is not None else None
    of_all = Provenance(order.model, order.version, order.seed, order.truncation)
    parts: list[bytes] = []
    first = rows.start
    while first < rows.stop:
        count = min(BATCH - first % BATCH, rows.stop - first)  # what `sample` makes in one pass
        images = generator.sample(count, order.seed, one, order.truncation, first)
        for index, pixels in enumerate(images, start=first):
            number = None if not names else index % len(names) if one is None else one
            label = None if number is None else names[number]
            told = {"index": index, "seed": order.seed, "label": label, "class": number}
            parts += member(f"{index:09d}.png", to_png(pixels, of_all.of_image(index, label)))
            parts += member(f"{index:09d}.json", canonical_json(told))
        first += count
    parts.append(end(sum(map(len, parts))))
    return b"".join(parts)


def _recorded(out: Storage, number: int) -> Shard | None:
    try:
        return Shard(**out.read_json(record_path(number)))
    except (FileNotFoundError, ValueError, TypeError):  # one that is damaged says nothing
        return None


def _is_whole(out: Storage, shard: Shard) -> bool:
    try:
        return sha256(out.read(shard.name)) == shard.sha256
    except FileNotFoundError:
        return False
