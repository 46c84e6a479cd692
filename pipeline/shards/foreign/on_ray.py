"""`ganline index`: foreign tars to a committed dataset version, each read once by a Ray task and left where it lies."""

from dataclasses import dataclass

from pipeline.config import Data
from pipeline.errors import UserError
from pipeline.ingest.image import rules_of
from pipeline.on_ray import TRIES, Died, cluster, insisting, run_tasks
from pipeline.progress import Progress, report
from pipeline.shards.alone import alone
from pipeline.shards.foreign.assemble import assemble
from pipeline.shards.foreign.find import FoundTar, find_tars
from pipeline.shards.foreign.scan import Job, Refused, scan_tar
from pipeline.shards.manifest import commit_version, dataset_folder, latest_version, load_manifest
from pipeline.shards.version import Contents
from pipeline.storage import Storage

_NAMED = 3
_DIED = f"the process that reads it died {TRIES} times; an image in it may need too much memory"


@dataclass(frozen=True)
class Indexed(Contents):
    """What an indexing found; `tars_read` were not known before."""

    tars: int
    tars_read: int


def index_tars(
    storage: Storage, name: str, patterns: list[str], data: Data, *, image: str | None = None, labels: str = "auto"
) -> Indexed:
    """Makes the tars that `patterns` name a version of the dataset `name`.

    Of `data`, what says how images are made and how they are split counts. Raises UserError, and commits nothing, for
    tars that are not there, or can not be taken whole, and where no image is valid.
    """
    tars, rules = find_tars(patterns), rules_of(data)
    job = Job(storage, name, rules, image.lower().removeprefix(".") if image else None, labels)
    known = {entry.path for entry in storage.list(f"{dataset_folder(name)}/scans")}
    unread = [tar for tar in tars if job.path(tar) not in known]
    _scan(job, unread)
    with alone(storage, name) as (_, held):
        before = latest_version(storage, name)
        made = assemble(job, data, tars, load_manifest(storage, before) if before else None)
        if not made.manifest.shards:
            reasons = ", ".join(f"{count} {reason}" for reason, count in made.quarantined.items()) or "no sample"
            raise UserError(f"{' '.join(patterns)}: no valid image ({reasons}); check what the tars hold")
        held.check()
        dataset = commit_version(storage, name, made.manifest, made.tables)
    return Indexed(
        dataset=dataset,
        samples=made.manifest.samples,
        classes=made.manifest.classes,
        tars=len(tars),
        tars_read=len(unread),
        quarantined=made.quarantined,
        duplicates=made.duplicates,
    )


def _scan(job: Job, tars: list[FoundTar]) -> None:
    """Raises UserError once all have been tried, so that what is sound is not read again after the rest is mended."""
    if not tars:
        return
    refused, samples, read, whole = list[Refused](), 0, 0, sum(tar.size for tar in tars)
    with cluster():
        for tar, found in zip(tars, insisting(run_tasks, scan_tar, job, tars), strict=True):
            read += tar.size
            if isinstance(found, Died):
                found = Refused(tar.uri, _DIED)
            if isinstance(found, Refused):
                refused.append(found)
            else:
                samples += found
            # How many there are is known at the end: until then, as if the rest were like what has been read.
            report(Progress("index", samples, samples * whole // read if read else samples))
    if refused:
        first = refused[0]
        others = ", ".join(each.uri for each in refused[1 : 1 + _NAMED])
        more = f"; {len(refused) - 1} of the {len(tars) - 1} others are refused too ({others})" if others else ""
        raise UserError(f"{first.uri}: {first.why}{more}")
