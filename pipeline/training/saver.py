"""Checkpoints off the training thread, which stands still for a copy of the tensors alone."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.training.attempt import Superseded
from pipeline.training.state import Snapshot

log = logging.getLogger(__name__)

Save = Callable[[Snapshot, Mapping[str, float]], object]


@dataclass(frozen=True)
class _Waiting:
    snapshot: Snapshot
    metrics: Mapping[str, float]


class Saver:
    """Publishes one snapshot at a time, in a thread of its own. Where storage is slower than checkpoints come, the
    newest takes the place of the one that waits: two at most are in memory.

    A full disk or a store that is away costs a checkpoint, not the run: training goes on, and the one before stands.
    """

    def __init__(self, save: Save):
        self._save = save
        self._changed = threading.Condition()
        self._waiting: _Waiting | None = None
        self._busy = self._closed = False
        self._error: Exception | None = None  # of the latest
        self.failures = 0
        self._thread = threading.Thread(target=self._work, name="saver", daemon=True)
        self._thread.start()

    @property
    def superseded(self) -> bool:
        """Another attempt has taken the run over: there is nothing left to do here."""
        return isinstance(self._error, Superseded)

    def save(self, snapshot: Snapshot, metrics: Mapping[str, float], patience: float = 0.0) -> None:
        """Waits so many seconds at most for another snapshot's turn, before it takes its place."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._waiting, patience):
                assert self._waiting
                log.warning("no checkpoint of step %d: storage is slower", self._waiting.snapshot.step)
            self._waiting = _Waiting(snapshot, metrics)
            self._changed.notify_all()

    def finish(self) -> None:
        """Waits until everything is written. Raises what the latest snapshot failed with."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._busy))
            if self._error:
                raise self._error

    def close(self) -> None:
        """Ends the thread once all is written. It holds tensors: where Python ends before it, the process aborts."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                waiting, self._waiting, self._busy = self._waiting, None, True
                self._changed.notify_all()
            error = self._try(waiting)
            with self._changed:
                self._error, self._busy = error, False
                self._changed.notify_all()

    def _try(self, waiting: _Waiting) -> Exception | None:
        try:
            self._save(waiting.snapshot, waiting.metrics)
        except Exception as error:
            self.failures += 1
            log.warning("no checkpoint of step %d", waiting.snapshot.step, exc_info=True)
            return error
        return None
