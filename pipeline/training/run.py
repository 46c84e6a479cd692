"""A run in storage: its lock, its stop word, the word of its failure."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import UserError
from pipeline.locks import exclusive
from pipeline.storage import Storage, cache_root
from pipeline.training.checkpoint import run_folder
from pipeline.training.telemetry import telemetry_path


@contextmanager
def only_writer(storage: Storage, run: str) -> Iterator[None]:
    """Holds the run's lock. Raises UserError if another process on this machine holds it."""
    folder = storage.local_path(run_folder(run)) if storage.is_local else cache_root(storage) / run_folder(run)
    with exclusive(folder / "lock", f"run {run} is being trained already; wait for it, or stop it first"):
        yield


def begin_anew(storage: Storage, run: str) -> None:
    """Deletes what the run has so far. Only its one writer may."""
    for folder in (f"{run_folder(run)}/checkpoints", f"{run_folder(run)}/grids", skips_folder(run)):
        storage.delete_folder(folder)
    storage.delete(telemetry_path(run))


def skips_folder(run: str) -> str:
    """Where the run records the samples that it goes without."""
    return f"{run_folder(run)}/skips"


def describe(storage: Storage, run: str, values: dict[str, Any]) -> None:
    """Writes what the run is: its dataset, classes, recipe."""
    storage.write_json(f"{run_folder(run)}/run.json", values)


def description(storage: Storage, run: str) -> dict[str, Any]:
    """Raises UserError if there is no such run."""
    try:
        return storage.read_json(f"{run_folder(run)}/run.json")
    except FileNotFoundError:
        known = [entry.path.rpartition("/")[2] for entry in storage.list("runs") if entry.is_folder]
        there = f"there are {', '.join(known)}" if known else "there is none yet; `ganline run mnist` makes one"
        raise UserError(f"no run {run} in {storage.name}: {there}") from None


def ask_to_stop(storage: Storage, run: str, reason: str) -> None:
    """Ends the run at a checkpoint, from any process that can write its folder."""
    storage.write(_stop_word(run), reason.encode())


def clear_words(storage: Storage, run: str) -> None:
    """What an earlier attempt was told, or told."""
    storage.delete(_stop_word(run))
    storage.delete(_failure(run))


def is_stop_asked(storage: Storage, run: str) -> bool:
    return storage.exists(_stop_word(run))


def _stop_word(run: str) -> str:
    return f"{run_folder(run)}/stop"


def tell_failure(storage: Storage, run: str, reason: str) -> None:
    """Says why no other attempt would end otherwise."""
    storage.write(_failure(run), reason.encode())


def told_failure(storage: Storage, run: str) -> str | None:
    try:
        return storage.read(_failure(run)).decode()
    except FileNotFoundError:
        return None


def _failure(run: str) -> str:
    return f"{run_folder(run)}/failure"
