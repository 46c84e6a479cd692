"""A run's figures over images, as JSON lines in its folder: `{"images", "time", "metrics"}` each.

These are the truth; MLflow, Prometheus and the terminal are shown what they say. Training hands a point over and goes
on; a thread writes it. On local disk all lie in `telemetry.jsonl`, on an object store in segments below `telemetry/`.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from threading import Condition, Thread

from pipeline.storage import Storage
from pipeline.training.checkpoint import run_folder
from pipeline.training.spool.disk import DiskReader, DiskWriter
from pipeline.training.spool.lines import Point, to_line, to_point
from pipeline.training.spool.segments import SegmentReader, SegmentWriter, segments

MOST_WAITING = 100_000  # points, well below 100 MB: a day and more of a store that is away
_AT_ONCE = 300  # points in an append
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between two attempts
log = logging.getLogger(__name__)


def telemetry_path(run: str) -> str:
    return f"{run_folder(run)}/telemetry.jsonl"


def telemetry_folder(run: str) -> str:
    return f"{run_folder(run)}/telemetry"


def read_points(storage: Storage, run: str) -> list[Point]:
    """Every whole point so far, all of them in memory; a line that a crash or a full disk cut short is left out."""
    try:
        if storage.is_local:
            parts = [telemetry_path(run)]
        else:
            parts = [one.path for one in segments(storage, telemetry_path(run), telemetry_folder(run))]
        lines = [line for part in parts for line in storage.read(part).splitlines()]
    except FileNotFoundError:
        return []
    return [point for point in map(to_point, lines) if point is not None]


def last_point(storage: Storage, run: str) -> Point | None:
    """Without all the others in memory."""
    follower, last = Follower(storage, run), None
    while points := follower.new_points():
        last = points[-1]
    follower.close()
    return last


def delete_telemetry(storage: Storage, run: str) -> None:
    storage.delete(telemetry_path(run))
    storage.delete_folder(telemetry_folder(run))


class Follower:
    """Reads a run's points as they come, each once, whoever writes them."""

    def __init__(self, storage: Storage, run: str):
        self._reader = (
            DiskReader(storage.local_path(telemetry_path(run)))
            if storage.is_local
            else SegmentReader(storage, telemetry_path(run), telemetry_folder(run))
        )

    def new_points(self) -> list[Point]:
        """The next ones, a few hundred at most; none if there are no more now. Raises OSError if the store is away.

        Where the run was resumed meanwhile, and points past its checkpoint were dropped, they begin with the first.
        """
        while lines := self._reader.read():
            if points := [point for point in map(to_point, lines.splitlines()) if point is not None]:
                return points
        return []

    def close(self) -> None:
        self._reader.close()


class TelemetryFile:
    """The writer's side; one process a run holds it.

    A store that is away costs neither time nor points: they wait in memory, `MOST_WAITING` at most.
    """

    def __init__(self, storage: Storage, run: str, resume_images: int):
        """Drops points past `resume_images`: the run will measure those again."""
        self._run, self._resume_images = run, resume_images
        self._writer = (
            DiskWriter(storage.local_path(telemetry_path(run)))
            if storage.is_local
            else SegmentWriter(storage, telemetry_path(run), telemetry_folder(run))
        )
        self._waiting: list[bytes] = []
        self._appended = self._written = self._dropped = 0
        self._ready = False  # whether what the run will measure again has been dropped
        self._hurried = 0  # by so many who wait
        self._ends: float | None = None  # when to give up, once there is nothing more to come
        self._changed = Condition()
        self._thread = Thread(target=self._write, name="telemetry", daemon=True)
        self._thread.start()

    def append(self, point: Point) -> None:
        """Returns at once; the point is written soon, or when the store is back."""
        line = to_line(point)
        with self._changed:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(line)
                self._appended += 1
                self._changed.notify_all()
                return
            self._dropped += 1
            first = self._dropped == 1
        if first:
            log.warning("%d telemetry points of %s wait to be written; what comes now is lost", MOST_WAITING, self._run)

    def flush(self, seconds: float) -> bool:
        """Waits until all that has been appended by now is written, no longer than that; whether it is."""
        with self._changed:
            wanted = self._appended
            self._hurried += 1
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._ready and self._written >= wanted, seconds)
            self._hurried -= 1
        return done

    def close(self, seconds: float = 30.0) -> None:
        """Writes what waits, for so long at most, and says what could not be written. No point may come afterwards."""
        with self._changed:
            self._ends = time.monotonic() + seconds
            self._changed.notify_all()
        self._thread.join(seconds)
        if missing := self._dropped + len(self._waiting):
            log.warning("%d telemetry points of %s could not be written", missing, self._run)

    def _write(self) -> None:
        if not self._persist("cut", partial(self._writer.cut, self._resume_images)):
            return
        with self._changed:
            self._ready = True
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ends)
                lines = self._waiting[:_AT_ONCE]
            if not lines or not self._persist("written", partial(self._writer.append, lines)):
                break
            with self._changed:
                del self._waiting[: len(lines)]
                self._written += len(lines)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._ends or self._hurried, self._writer.pause)
        self._writer.close()

    def _persist(self, what: str, act: Callable[[], None]) -> bool:
        """Until it is done, or `close` gives up."""
        pause, failed = _FIRST_PAUSE, 0
        while True:
            try:
                act()
            except Exception as error:  # whatever it is, it may not take the points that are still to come
                if not failed:
                    log.warning("telemetry of %s can not be %s now", self._run, what, exc_info=error)
                failed += 1
            else:
                if failed:
                    log.warning("telemetry of %s is %s, at attempt %d", self._run, what, failed + 1)
                return True
            with self._changed:
                if self._ends is None:  # a point that comes meanwhile is no reason to look again
                    closing = self._changed.wait_for(lambda: self._ends is not None, pause)
                elif closing := time.monotonic() + pause <= self._ends:
                    self._changed.wait(pause)
                else:
                    return False
            pause = _FIRST_PAUSE if closing else min(2 * pause, _LONGEST_PAUSE)
