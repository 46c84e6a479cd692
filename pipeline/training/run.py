"""A run in storage: its lock, its stop word, the word of its failure."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from pipeline.errors import UserError
from pipeline.lease import SECONDS
from pipeline.locks import Held, one_writer
from pipeline.patience import Patience
from pipeline.storage import Storage
from pipeline.training.checkpoint import run_folder
from pipeline.training.telemetry import delete_telemetry

LOCK = "lock"
_LITTLE_PATIENCE = Patience(attempts=2, seconds=5.0)  # for what is asked again and again


def only_writer(storage: Storage, run: str, seconds: float = SECONDS) -> AbstractContextManager[Held]:
    """Holds the run's lock, which its owner checks now and then. Raises UserError if another holds it."""
    busy = f"run {run} is being trained already; wait for it, or stop it first"
    return one_writer(storage, f"{run_folder(run)}/{LOCK}", busy, seconds)


def begin_anew(storage: Storage, run: str) -> None:
    """Deletes what the run has so far. Only its one writer may."""
    for folder in (f"{run_folder(run)}/checkpoints", f"{run_folder(run)}/grids", skips_folder(run)):
        storage.delete_folder(folder)
    delete_telemetry(storage, run)
    storage.delete(_failure(run))


def skips_folder(run: str) -> str:
    """Where the run records the samples that it goes without."""
    return f"{run_folder(run)}/skips"


def describe(storage: Storage, run: str, values: dict[str, Any]) -> None:
    """Writes what the run is: its dataset, classes, recipe."""
    storage.write_json(f"{run_folder(run)}/run.json", values)


def has_begun(storage: Storage, run: str) -> bool:
    return storage.exists(f"{run_folder(run)}/run.json")


def description(storage: Storage, run: str) -> dict[str, Any]:
    """Raises UserError if there is no such run."""
    try:
        return storage.read_json(f"{run_folder(run)}/run.json")
    except FileNotFoundError:
        there = [entry.path.rpartition("/")[2] for entry in storage.list("runs") if entry.is_folder]
        raise unknown_run(storage, run, there) from None


def unknown_run(storage: Storage, run: str, there: Sequence[str]) -> UserError:
    known = f"there are {', '.join(there)}" if there else "there is none yet; `ganline run mnist` makes one"
    return UserError(f"no run {run} in {storage.name}: {known}")


def ask_to_stop(storage: Storage, run: str, reason: str) -> None:
    """Ends the run at a checkpoint, from any process that can write its folder."""
    storage.write(_stop_word(run), reason.encode(), _LITTLE_PATIENCE)


def clear_stop(storage: Storage, run: str) -> None:
    storage.delete(_stop_word(run))


def is_stop_asked(storage: Storage, run: str) -> bool:
    return storage.exists(_stop_word(run))


def stop_reason(storage: Storage, run: str) -> str | None:
    return _word(storage, _stop_word(run))


def _stop_word(run: str) -> str:
    return f"{run_folder(run)}/stop"


def tell_failure(storage: Storage, run: str, reason: str) -> None:
    """Says why no other attempt would end otherwise."""
    storage.write(_failure(run), reason.encode())


def told_failure(storage: Storage, run: str) -> str | None:
    return _word(storage, _failure(run))


def _failure(run: str) -> str:
    return f"{run_folder(run)}/failure"


def _word(storage: Storage, path: str) -> str | None:
    try:
        return storage.read(path).decode()
    except FileNotFoundError:
        return None
