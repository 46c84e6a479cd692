"""What nobody needs of a storage root: checkpoints, runs and dataset versions, judged by what the registry names."""

from collections.abc import Mapping, Sequence
from functools import cache, partial

from pipeline.evaluation.drop import drop_evaluations
from pipeline.registry.named import released_checkpoints, released_datasets
from pipeline.registry.server import NoRegistry, client, tracking_uri
from pipeline.shards import pruning as datasets
from pipeline.shards.listed import dataset_names
from pipeline.storage import Storage, sha256
from pipeline.training import pruning as runs
from pipeline.training.runs import datasets_of_runs, finished_runs, run_names


def releases_there(place: Storage) -> runs.Releases:
    """What the registry names now; nothing where there is none yet. Raises UserError if it does not answer."""
    tracking = sha256(tracking_uri(place).encode())
    try:
        return runs.Releases(tracking, released_checkpoints(client(place, create=False)))
    except NoRegistry:
        return runs.Releases(tracking, {})


def prune_runs(
    place: Storage, names: Sequence[str], last: int | None, best: int | None, unreleased: bool, *, really: bool
) -> list[runs.Pruning]:
    """Of these runs, or of all. All are looked at first: where the registry is asked and does not answer, nothing has
    been deleted."""
    ends, releases, found = finished_runs(place), cache(lambda: releases_there(place)), run_names(place, names)

    def each(really: bool) -> list[runs.Pruning]:
        how = partial(runs.prune, last=last, best=best, unreleased=unreleased, really=really)
        return [how(place, run, ends, releases) for run in found]

    looked_at = each(False)
    return each(True) if really else looked_at


def prune_datasets(place: Storage, names: Sequence[str], days: float, *, really: bool) -> list[datasets.Pruning]:
    """Of these datasets, or of all; with what evaluations keep of the versions that go. All are looked at first, too,
    and where one can not be read nothing has been deleted."""
    found = dataset_names(place, names)

    def each(really: bool) -> list[datasets.Pruning]:
        needed = cache(lambda: _needed(place))
        return [datasets.prune_dataset(place, name, needed, days, really=really) for name in found]

    looked_at = each(False)
    if not really:
        return looked_at
    pruned = each(True)
    if gone := {digest for one in pruned for digest in one.versions}:
        drop_evaluations(place, gone)
    return pruned


def _needed(place: Storage) -> Mapping[str, str]:
    """What runs and releases were trained on, by digest of the dataset version."""
    try:
        released = released_datasets(client(place, create=False))
    except NoRegistry:
        released = {}
    return {**datasets_of_runs(place), **{digest: f"of {names}" for digest, names in released.items()}}
