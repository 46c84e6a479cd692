"""Which start of a run is the living one: a number that each group of workers takes, one more than the last.

A worker that was given up for dead, and comes back, has a number that is no longer the run's: it may write nothing.
"""

from pipeline.storage import Storage


class Superseded(Exception):
    """Another start of the run has taken over; what this one still has to write is of no use."""


def begin_attempt(storage: Storage, run: str) -> int:
    """Takes the next number. Only the run's one writer may, and a group's first rank on its behalf."""
    number = living_attempt(storage, run) + 1
    storage.write(_path(run), str(number).encode())
    return number


def living_attempt(storage: Storage, run: str) -> int:
    """0 before the first."""
    try:
        return int(storage.read(_path(run)))
    except FileNotFoundError:
        return 0


def check_attempt(storage: Storage, run: str, number: int) -> None:
    """Raises Superseded where a later attempt has begun."""
    if (living := living_attempt(storage, run)) != number:
        raise Superseded(f"attempt {number} of run {run} has been superseded by attempt {living}")


def _path(run: str) -> str:
    return f"runs/{run}/attempt"
