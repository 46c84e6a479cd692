"""What of a run can go, and its going."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.locks import Held
from pipeline.storage import Storage
from pipeline.training.checkpoint import (
    Keeping,
    Listed,
    delete_checkpoint,
    list_checkpoints,
    newest_checkpoint,
    reasons_to_keep,
    run_folder,
    unfinished,
)
from pipeline.training.run import LOCK, only_writer
from pipeline.training.runs import Finished, begins_fork, is_running, keeping_of

_OTHER_STORE = "it finished under another MLFLOW_TRACKING_URI, whose releases are not known here"


@dataclass(frozen=True)
class Releases:
    """What a registry names: checkpoints by path, as `faces version 3`. `tracking` is the sha256 of its store's URI."""

    tracking: str
    of: Mapping[str, str]


@dataclass(frozen=True)
class Pruning:
    """What goes of a run, or went: `whole`, or these checkpoints and half-written ones; `kept` says why more stays."""

    run: str
    whole: bool = False
    checkpoints: Sequence[str] = ()
    unfinished: Sequence[str] = ()
    bytes: int = 0
    kept: str | None = None


def prune(
    storage: Storage,
    run: str,
    ends: Sequence[Finished],
    releases: Callable[[], Releases],
    *,
    last: int | None = None,
    best: int | None = None,
    unreleased: bool = False,
    really: bool,
) -> Pruning:
    """What would go of a run, or with `really` what went, under its lock.

    That is the checkpoints beyond the `last` and the `best` (default: as its recipe says) and what is half written;
    with `unreleased` the whole run, unless a release names it. One marked KEEP stays while a release may name it, what
    a fork began with always, and so does what the run would go on from. It is asked which releases there are only
    where that matters, and what this raises comes before anything is deleted.
    """
    lock: Held | None = None
    with ExitStack() as held:
        if really:
            try:
                lock = held.enter_context(only_writer(storage, run))
            except UserError as busy:
                return Pruning(run, kept=str(busy))
        elif is_running(storage, run):
            return Pruning(run, kept="it is being trained")
        planned = _plan(storage, run, keeping_of(storage, run, last, best), unreleased, ends, releases)
        if lock:
            for path in planned.checkpoints:
                lock.check()
                delete_checkpoint(storage, path)
            for path in planned.unfinished:
                storage.delete_folder(path)
            if planned.whole:
                _delete_whole(storage, run)
        return planned


def _delete_whole(storage: Storage, run: str) -> None:
    for entry in storage.list(run_folder(run)):
        if entry.path != f"{run_folder(run)}/{LOCK}":
            (storage.delete_folder if entry.is_folder else storage.delete)(entry.path)
    if storage.is_local:  # in an object store the lock is a lease, which its owner takes back
        storage.delete_folder(run_folder(run))


def _plan(
    storage: Storage,
    run: str,
    keeping: Keeping,
    unreleased: bool,
    ends: Sequence[Finished],
    releases: Callable[[], Releases],
) -> Pruning:
    listed, halves, kept = list_checkpoints(storage, run), unfinished(storage, run), None
    if unreleased:
        kept = _why_not_whole(run, ends, releases())
        if kept is None:
            size = storage.folder_size(run_folder(run))
            return Pruning(run, True, [one.path for one in listed], halves, size)
    places = reasons_to_keep(listed, keeping)
    if beyond := [one for one in listed if not places[one.path]]:
        needed = _to_go_on_from(storage, run, listed)
        beyond = [one for one in beyond if one.path not in needed and not begins_fork(storage, one)]
    if any(one.kept for one in beyond):
        there = releases()
        if may_be_named_elsewhere(run, ends, there):
            kept, beyond = _OTHER_STORE, [one for one in beyond if not one.kept]
        beyond = [one for one in beyond if one.path not in there.of]
    paths = [one.path for one in beyond]
    size = sum(storage.folder_size(path) for path in [*paths, *halves])
    return Pruning(run, False, paths, halves, size, kept)


def _why_not_whole(run: str, ends: Sequence[Finished], releases: Releases) -> str | None:
    named = sorted(name for path, name in releases.of.items() if path.startswith(f"{run_folder(run)}/"))
    if named:
        return f"released as {', '.join(named)}"
    return _OTHER_STORE if may_be_named_elsewhere(run, ends, releases) else None


def may_be_named_elsewhere(run: str, ends: Sequence[Finished], releases: Releases) -> bool:
    """Whether the run ended before another registry than the one that was asked."""
    return any(end.run == run and end.tracking != releases.tracking for end in ends)


def _to_go_on_from(storage: Storage, run: str, listed: Sequence[Listed]) -> set[str]:
    """The newest checkpoint that verifies, and the newest of those after which all was well; all if none does."""
    try:
        found = [newest_checkpoint(storage, run, healthy) for healthy in (False, True)]
    except UserError:
        return {one.path for one in listed}
    return {one.path for one in found if one}
