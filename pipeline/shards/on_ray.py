"""The shard stage: a source of images to a committed dataset version, its work spread over Ray tasks.

A source that grew gets new shards for its new images alone; one that shrank hides what is gone; one that
did not change costs a listing, and no Ray.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from pipeline.config import Data
from pipeline.errors import UserError
from pipeline.ingest.image import ImageRules, InvalidImage, rules_of
from pipeline.ingest.source import Source, open_source, read_one
from pipeline.on_ray import cluster, run_tasks
from pipeline.progress import Progress, report
from pipeline.shards.forgotten import forgotten_keys
from pipeline.shards.manifest import DatasetRef, commit_version
from pipeline.shards.plan import Origin, ShardPlan, known_keys, leave_out, plan_shards, resolve, write_origins
from pipeline.shards.version import Before, assemble, class_names, has_lost_a_class, read_before, settle
from pipeline.shards.write import WrittenShard, content_key, write_shard
from pipeline.storage import Storage

_SCAN_CHUNK = 500


@dataclass(frozen=True)
class Ingest:
    """What one ingest found and did. `samples` by split, `quarantined` by reason."""

    dataset: DatasetRef
    samples: dict[str, int]
    classes: list[str]
    channels: int
    shards_written: int
    shards_reused: int
    quarantined: dict[str, int]
    duplicates: int


@dataclass(frozen=True)
class _Job:
    """What every task of an ingest shares."""

    storage: Storage
    name: str
    source: Source
    rules: ImageRules
    encoding: str
    quality: int


def shard_images(storage: Storage, name: str, data: Data) -> Ingest:
    """Brings the dataset `name` up to date with `data.source`.

    Raises UserError for a source that is missing, empty, or holds no valid image; nothing is committed then.
    """
    source = open_source(data.source, data.labels, data.image_column)
    items = list(source.items())
    before = read_before(storage, name, data)
    job = _Job(storage, name, source, rules_of(data), data.encoding, data.quality)

    keys = known_keys(items, before.origins)
    unread = [item.path for item in items if item.path not in keys]
    keys |= _content_keys(job, unread)
    forgotten = forgotten_keys(storage, name)
    origins = leave_out(resolve(items, keys, before.origins), forgotten)
    if has_lost_a_class(before, origins):
        before, origins = Before(), leave_out(resolve(items, keys, []), forgotten)
    classes = class_names(before, origins)
    written = _write_shards(job, plan_shards(origins, classes, data.held_out, data.shard_images))
    origins = settle(origins, written)
    quarantined = Counter(origin.reason for origin in origins if origin.status == "quarantined")
    _refuse_if_empty(data.source, origins, quarantined)

    manifest, tables = assemble(before, data, classes, origins, written)
    unchanged = before.dataset and before.dataset.digest == manifest.digest and before.origins == origins
    if unchanged and before.dataset:
        dataset = before.dataset
    else:
        dataset = commit_version(storage, name, manifest, {**tables, "sources": write_origins(origins)})
    fresh = sum(1 for result in written if result.shard and not result.reused)
    return Ingest(
        dataset=dataset,
        samples=manifest.samples,
        classes=classes,
        channels=manifest.channels,
        shards_written=fresh,
        shards_reused=len(manifest.shards) - fresh,
        quarantined=dict(quarantined),
        duplicates=sum(origin.status == "duplicate" for origin in origins),
    )


@lru_cache(maxsize=1)
def _kept(source: Source) -> Source:
    """One copy a process: an archive has to be listed, or unpacked, before the first image can be read."""
    return source


def _content_keys(job: _Job, paths: list[str]) -> dict[str, str]:
    """Content key of each file."""
    if not paths:
        return {}
    chunks = [paths[at : at + _SCAN_CHUNK] for at in range(0, len(paths), _SCAN_CHUNK)]
    keys: list[str] = []
    with cluster():
        for chunk in run_tasks(_hash_files, job, chunks):
            keys += chunk
            report(Progress("scan", len(keys), len(paths)))
    return dict(zip(paths, keys, strict=True))


def _hash_files(job: _Job, paths: list[str]) -> list[str]:
    return [_hash_file(job, path) for path in paths]


def _hash_file(job: _Job, path: str) -> str:
    try:
        return content_key(read_one(_kept(job.source), path))
    except InvalidImage:  # writing its shard meets it again, and quarantines it with the reason
        return content_key(b"unreadable " + path.encode())


def _write_shards(job: _Job, plans: list[ShardPlan]) -> list[WrittenShard]:
    """Writes each planned shard, one a task; results in the plan's order."""
    if not plans:
        return []
    total, written = sum(len(plan.samples) for plan in plans), []
    with cluster():
        done = 0
        for plan, result in zip(plans, run_tasks(_write_shard, job, plans), strict=True):
            written.append(result)
            done += len(plan.samples)
            report(Progress("shard", done, total))
    return written


def _write_shard(job: _Job, plan: ShardPlan) -> WrittenShard:
    return write_shard(
        job.storage, job.name, _kept(job.source), plan.samples, plan.split, job.rules, job.encoding, job.quality
    )


def _refuse_if_empty(source: str, origins: list[Origin], quarantined: Counter) -> None:
    if not any(origin.status == "kept" for origin in origins):
        reasons = ", ".join(f"{count} {reason}" for reason, count in quarantined.most_common())
        raise UserError(f"{source} holds no valid image ({reasons}); check what the files are")
