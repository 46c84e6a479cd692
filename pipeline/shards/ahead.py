"""Fetches and checks shards in the background before they are read."""

import logging
from collections.abc import Callable, Sequence
from threading import Lock, Thread

_CLOSE_SECONDS = 10.0  # a store that is away is not waited for
log = logging.getLogger(__name__)


class Ahead:
    """A thread that calls `fetch` for what is wanted, soonest first. What fails is left to who needs it."""

    def __init__(self, fetch: Callable[[int], None]):
        self._fetch, self._wanted, self._lock = fetch, list[int](), Lock()
        self._is_working = False
        self._thread: Thread | None = None

    def want(self, numbers: Sequence[int]) -> None:
        """Replaces what was wanted before."""
        with self._lock:
            self._wanted = list(numbers)
            if self._is_working or not self._wanted:
                return
            self._is_working = True
        self._thread = Thread(target=self._work, name="ganline-ahead", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wants nothing more, and waits for the fetch under way: where Python ends amid one, the process may abort."""
        self.want([])
        if self._thread:
            self._thread.join(_CLOSE_SECONDS)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._is_working = False
                    return
                number = self._wanted.pop(0)
            try:
                self._fetch(number)
            except Exception as error:
                log.info("shard %d is not here ahead of time: %s", number, error)
