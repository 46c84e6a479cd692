"""One process at a time: by flock on local disk, by a lease in an object store."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pipeline import lease
from pipeline.errors import UserError
from pipeline.storage import Storage


class Held(Protocol):
    """A lock in one's hands, for as long as it stays there."""

    def check(self, grace: float = 0.0) -> None:
        """Raises Unavailable where it is another's by now, or may be for more than `grace` seconds."""


class _HeldByTheKernel:
    def check(self, grace: float = 0.0) -> None: ...


@contextmanager
def one_writer(storage: Storage, path: str, busy: str, seconds: float = lease.SECONDS) -> Iterator[Held]:
    """Holds the lock at `path`, where nothing else may lie. Raises UserError that begins with `busy` if another does.

    It is free once its owner is dead; in an object store up to `seconds` later.
    """
    if storage.is_local:
        with exclusive(storage.local_path(path), busy):
            yield _HeldByTheKernel()
    else:
        with lease.leased(storage, path, busy, seconds) as held:
            yield held


@contextmanager
def exclusive(lock: Path, busy: str) -> Iterator[None]:
    """Holds an flock. Raises UserError(busy) if another process holds it.

    The kernel lets go of it when its owner dies, however it dies.
    """
    while (descriptor := _locked(lock, busy)) is None:
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(lock: Path, busy: str) -> int | None:
    """None where the file was deleted, by who held it, before it could be locked."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
            return descriptor
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(busy) from None
    except FileNotFoundError:
        pass
    os.close(descriptor)
    return None


def is_held(storage: Storage, path: str) -> bool:
    """Whether the lock at `path` is held now, in an object store as far as that can be seen; to ask leaves no trace."""
    if not storage.is_local:
        return lease.seems_held(storage, path)
    try:
        descriptor = os.open(storage.local_path(path), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
