"""Telling that an alias has moved."""

import time
from collections.abc import Iterator

from pipeline.errors import Unavailable, UserError
from pipeline.progress import note
from pipeline.registry.found import Found
from pipeline.registry.lookup import ask
from pipeline.registry.reference import parse
from pipeline.registry.resolved import recall_found
from pipeline.storage import Storage, default_uri


class Watcher:
    """Tells when an alias names another version."""

    def __init__(self, reference: str, storage: Storage | None = None):
        self.reference = reference
        self.storage = storage or Storage(default_uri())
        self._last: Found | None = None
        self._trouble: type[UserError] | None = None

    def look(self) -> Found | None:
        """The release that it names now, if that is another than at the last look (the first look always tells).

        None while the registry is away, said once; but the first look then tells of what was last loaded here, if
        anything was, `stale`. Raises UserError if it names nothing and never did; if it names nothing any more, that
        is said once, and None.
        """
        try:
            found = ask(self.reference, self.storage, self._last)
        except UserError as trouble:
            return self._without(trouble)
        self._trouble = None
        return self._told(found)

    def _without(self, trouble: UserError) -> Found | None:
        away = isinstance(trouble, Unavailable)
        if not away and self._last is None:
            raise trouble
        if self._trouble is not type(trouble):
            self._trouble = type(trouble)
            note(f"{self.reference} is watched on: {trouble}")
        if away and self._last is None and (found := recall_found(self.storage, *parse(self.reference))):
            return self._told(found)
        return None

    def _told(self, found: Found) -> Found | None:
        if self._last is not None and found.is_release(self._last):
            return None
        self._last = found
        return found


def watch(reference: str, storage: Storage | None = None, seconds: float = 2.0) -> Iterator[Found]:
    """Each release that it comes to name, for ever, looked at every so many seconds; raises as `Watcher.look`."""
    watcher = Watcher(reference, storage)
    while True:
        if found := watcher.look():
            yield found
        time.sleep(seconds)
