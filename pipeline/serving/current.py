"""The generator that answers now, and its successor when the alias moves."""

import asyncio
import logging
import time

from pipeline.errors import Unavailable, UserError
from pipeline.patience import first_line
from pipeline.redact import redact_within
from pipeline.registry.found import Found
from pipeline.registry.generator import BATCH, Generator
from pipeline.registry.lookup import ask, load, load_found
from pipeline.serving.figures import Figures
from pipeline.storage import Storage

LOOK_SECONDS = 2.0
_AGAIN_SECONDS = 30.0  # to try again what could not be loaded
log = logging.getLogger(__name__)


class Current:
    """Loads what `reference` names, warm. `generator` is replaced only by one that has been verified and warmed.

    `registry_away` is whether the registry did not answer at the last look; `trouble` says in one line why what the
    reference names is not what answers, None where it is. Raises what `pipeline.registry.load` does.
    """

    def __init__(self, reference: str, storage: Storage, figures: Figures):
        self.reference = reference
        self.trouble: str | None = None
        self._storage, self._figures = storage, figures
        self._not_before = 0.0
        self._refused: Found | None = None
        self._take(load(reference, storage))
        self.registry_away = self.found.stale

    @property
    def found(self) -> Found:
        assert self.generator.found is not None
        return self.generator.found

    async def follow(self) -> None:
        """Looks every two seconds, for ever, in another thread."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Whatever is wrong with the registry or with what it names: what answers goes on."""
        try:
            found = ask(self.reference, self._storage, self.found)
        except Unavailable:
            self._note(away=True, trouble=self.trouble)
            return
        except Exception as error:
            self._note(away=False, trouble=f"can not look {self.reference} up: {_told(error)}")
            return
        if found.is_release(self.found):
            self._refused = None
            self._note(away=False, trouble=None)
        elif self._refused is None or not found.is_release(self._refused) or self._not_before < time.monotonic():
            self._change_to(found)

    def _change_to(self, found: Found) -> None:
        try:
            self._take(load_found(found, self._storage))
        except Exception as error:
            self._refused, self._not_before = found, time.monotonic() + _AGAIN_SECONDS
            self._note(away=False, trouble=f"can not serve version {found.version}: {_told(error)}")
            return
        self._refused = None
        self._figures.swaps.inc()
        self._note(away=False, trouble=None)

    def _take(self, generator: Generator) -> None:
        generator.sample_rows([0] * BATCH, range(BATCH))  # the first batch takes several times as long
        self.generator = generator
        self._figures.version.set(self.found.version)

    def _note(self, away: bool, trouble: str | None) -> None:
        if trouble and trouble != self.trouble:
            log.warning("%s; version %d goes on", trouble, self.found.version)
        self.registry_away, self.trouble = away, trouble
        self._figures.registry_away.set(away)
        self._figures.trouble.set(trouble is not None)


def _told(error: Exception) -> str:
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return redact_within(kind + first_line(error))
