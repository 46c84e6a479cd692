"""What the registry says of a model's versions, also while it is away."""

import asyncio
import time

from pipeline.registry.history import Listed, releases_of
from pipeline.registry.reported import report
from pipeline.registry.server import client
from pipeline.serving.messages import Version
from pipeline.storage import Storage

_FRESH_SECONDS = 2.0
_MOST = 50


class KnownVersions:
    """One question at a time, and none sooner than two seconds after the last: visitors do not add up."""

    def __init__(self, model: str, storage: Storage):
        self._model, self._storage = model, storage
        self._known: list[Version] = []
        self._answers, self._asked = False, -_FRESH_SECONDS
        self._one, self._one_report = asyncio.Lock(), asyncio.Lock()

    async def now(self) -> tuple[list[Version], bool]:
        """The newest, newest first, and whether the registry answered; if not, they are those of before."""
        async with self._one:
            if time.monotonic() >= self._asked + _FRESH_SECONDS:
                try:
                    found = await asyncio.to_thread(self._newest)
                    self._known, self._answers = [_shown(each) for each in found], True
                except Exception:  # each registry has its own
                    self._answers = False
                self._asked = time.monotonic()
            return self._known, self._answers

    def _newest(self) -> list[Listed]:
        return releases_of(client(self._storage, create=False), self._model, _MOST)

    async def report(self, version: int) -> tuple[bytes, str]:
        """As `pipeline.registry.reported.report`; a store that is long about it holds up other reports alone."""
        async with self._one_report:
            return await asyncio.to_thread(report, self._model, version, self._storage)


def _shown(each: Listed) -> Version:
    return Version(
        version=each.version, aliases=list(each.aliases), created=each.created,
        promoted=each.promoted, reason=each.reason, rule=each.rule, figures=each.figures,
        report=f"v1/versions/{each.version}/report" if each.has_report else None,
    )  # fmt: skip
