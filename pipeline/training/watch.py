"""The driver's eyes on a run: its progress and warnings for whoever watches, and the time it may take."""

import logging
import time
from collections.abc import Callable

from pipeline.config import Config
from pipeline.locks import Held
from pipeline.progress import Progress, note, report
from pipeline.storage import Storage
from pipeline.training.run import ask_to_stop
from pipeline.training.telemetry import Follower, Point

REGROUP = "another group of workers goes on"
_REPORT_SECONDS = 3.0
_STORE_AWAY_SECONDS = (
    600.0  # for which a run goes on without being sure that it is still its own: it writes nothing then
)
log = logging.getLogger(__name__)


class Watch:
    """To be asked to `look` about once a second, which raises Unavailable where the run is another's by now.

    `stopped_for`: what it, or a signal, ended the run for. `warnings`: the last of each code. `show` is given the
    latest point now and then.
    """

    def __init__(self, storage: Storage, config: Config, run: str, held: Held):
        self._storage, self._config, self._run, self._held = storage, config, run, held
        self.warnings: dict[str, str] = {}
        self.show: Callable[[Point], None] = lambda point: None
        self._until = time.monotonic() + (config.training.max_hours or float("inf")) * 3600
        self._follower, self._reported = Follower(storage, run), float("-inf")
        self._told = -1  # images
        self.stopped_for: str | None = None
        self._word: str | None = None  # to be written

    def look(self) -> None:
        if self._word:
            self._write_word(self._word)
        self._held.check(_STORE_AWAY_SECONDS)
        if time.monotonic() > self._until and not self.stopped_for:
            why = f"training.max_hours {self._config.training.max_hours:g} are over"
            note(f"{why}: stopping at a checkpoint")
            self.stop(why)
        if time.monotonic() - self._reported > _REPORT_SECONDS:
            self.report()

    def stops(self) -> bool:
        """Looks, and whether it was stopped by now."""
        self.look()
        return self.stopped_for is not None

    def stop(self, why: str) -> None:
        """Ends the run at a checkpoint."""
        self.stopped_for = self._word = why

    def regroup(self) -> None:
        """Ends a group of workers at a checkpoint, for another to go on."""
        self._word = self._word or REGROUP

    def _write_word(self, word: str) -> None:
        """At the next look again where storage is away: a signal's handler has no time to wait for it."""
        try:
            ask_to_stop(self._storage, self._run, word)
        except OSError:
            log.warning("cannot write the stop word of %s now", self._run, exc_info=True)
            return
        if self._word == word:
            self._word = None

    def report(self) -> None:
        """What has come since the last time."""
        self._reported, last = time.monotonic(), None
        try:
            while points := self._follower.new_points():
                last = points[-1]
                self._warn(points)
        except OSError:  # the run goes on, seen or not
            log.warning("cannot read the telemetry of %s now", self._run, exc_info=True)
        if last:
            self.show(last)
            report(Progress("train", last["images"], self._config.training.images, last["metrics"]))

    def _warn(self, points: list[Point]) -> None:
        """Of each point once: after a resume they come again."""
        for point in points:
            if point["images"] > self._told:
                self._told = point["images"]
                for warning in point.get("warnings", ()):
                    self.warnings[warning["code"]] = f"image {self._told:,}: {warning['line']}"
                    note(self.warnings[warning["code"]])
