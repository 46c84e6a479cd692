"""Shows MLflow what a run's telemetry says, in the background: training never waits for it."""

import logging
import time
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.errors import Unavailable
from pipeline.patience import first_line
from pipeline.progress import watcher
from pipeline.redact import redact_within
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.storage import Storage
from pipeline.training.checkpoint import run_folder
from pipeline.training.telemetry import Follower

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_PERIOD_SECONDS = 5.0
_LONGEST_PAUSE = 60.0  # seconds, where MLflow is away for long
_LAST_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds: a sqlite file may be locked, a server restart
_AT_ONCE = 50  # points, for a request or two
_FINISH_SECONDS = 180.0  # without any point taken: a request may hang for two minutes
_ABANDON_SECONDS = 10.0
log = logging.getLogger(__name__)


@dataclass
class _Link:
    """What is known of the run in MLflow. With any error all of it is forgotten, and asked anew."""

    client: "MlflowClient"
    run_id: str
    follower: Follower
    sent: dict[str, int]
    last_grid: str


class Sink:
    """Opens the run's MLflow run and sends it each new point and sample grid, until `finish`.

    The telemetry in storage stays the truth: what could not be sent is sent later, and every point once. In memory
    there are never more points than MLflow takes in a few requests.
    """

    def __init__(self, storage: Storage, config: Config, run: str, dataset: DatasetRef, forked_from: str | None = None):
        self._forked_from = forked_from
        self._storage, self._config, self._run, self._dataset = storage, config, run, dataset
        self._link: _Link | None = None
        self._status = "FINISHED"
        self._run_id = ""  # once MLflow knows that the run has ended
        self._error: Exception | None = None
        self._note = watcher.get().note  # the thread has a context of its own
        self._taken = time.monotonic()  # when MLflow last took something
        self._away = False
        self._ending, self._given_up = Event(), Event()
        self._thread = Thread(target=self._follow, name="mlflow-sink", daemon=True)
        self._thread.start()

    def finish(self, status: str) -> str:
        """Sends what is left, sets FINISHED, FAILED or KILLED, and returns the MLflow run's id.

        Raises Unavailable if MLflow takes nothing for three minutes, or refuses again and again: the run is whole in
        storage, and who finishes it later sends the rest.
        """
        self._status = status
        self._taken = time.monotonic()
        self._ending.set()
        while self._thread.is_alive() and (quiet := time.monotonic() - self._taken) < _FINISH_SECONDS:
            self._thread.join(_FINISH_SECONDS - quiet)
        self._given_up.set()
        if self._run_id:
            return self._run_id
        why = _line(self._error) if self._error else f"MLflow took nothing for {_FINISH_SECONDS:.0f} s"
        raise Unavailable(
            f"run {self._run} is trained and safe in {self._storage.name}, but the rest of its telemetry does not reach"
            f" MLflow: {why}"
        ) from self._error

    def abandon(self, status: str) -> None:
        """Like `finish`, but for a run that ends early: soon, and without an error of its own."""
        self._status = status
        self._ending.set()
        self._thread.join(_ABANDON_SECONDS)
        self._given_up.set()
        if not self._run_id:
            log.warning("MLflow was not told that %s is %s", self._run, status, exc_info=self._error)

    def let_go(self) -> None:
        """Stops, and says nothing of an end: the run is another's by now, or may be."""
        self._given_up.set()
        self._ending.set()
        self._thread.join(_ABANDON_SECONDS)

    def _follow(self) -> None:
        pause = _PERIOD_SECONDS
        while not self._ending.wait(pause if self._link or self._away else 0.0):
            try:
                self._send()
                self._tell_back()
                pause = _PERIOD_SECONDS
            except Exception as error:
                self._tell_away(error)
                pause = min(2 * pause, _LONGEST_PAUSE)
        for pause in (*_LAST_PAUSES, 0.0):
            if self._given_up.is_set():
                return
            try:
                link = self._send()
                if not self._given_up.is_set():
                    self._end(link)
                return
            except Exception as error:
                self._forget()
                self._error = error
            log.warning("MLflow was not told of the end of %s", self._run, exc_info=self._error)
            self._given_up.wait(pause)

    def _send(self) -> _Link:
        """All that MLflow does not have, in the order in which it came."""
        # Here, in the background: importing MLflow and making its database take seconds.
        from pipeline.registry.runs import log_file, send_points

        link = self._link = self._link or self._open()
        while points := link.follower.new_points():
            for at in range(0, len(points), _AT_ONCE):
                if self._given_up.is_set():
                    return link
                send_points(link.client, link.run_id, points[at : at + _AT_ONCE], link.sent)
                self._taken = time.monotonic()
        for grid in self._storage.list(f"{run_folder(self._run)}/grids"):
            path = f"grids/{grid.path.rpartition('/')[2]}"
            if path > link.last_grid and not self._given_up.is_set():
                log_file(link.client, link.run_id, self._storage.read(grid.path), path)
                link.last_grid = path
                self._taken = time.monotonic()
        return link

    def _open(self) -> _Link:
        from pipeline.registry.runs import already_sent, open_run, sent_files
        from pipeline.registry.server import client

        mlflow = client(self._storage)
        run_id = open_run(mlflow, self._config, self._run, self._lineage(), self._forked_from)
        grids = sent_files(mlflow, run_id, "grids")
        follower = Follower(self._storage, self._run)
        return _Link(mlflow, run_id, follower, already_sent(mlflow, run_id), max(grids, default=""))

    def _end(self, link: _Link) -> None:
        from pipeline.registry.runs import finish_run

        finish_run(link.client, link.run_id, self._status)
        self._run_id = link.run_id

    def _forget(self) -> None:
        """What has been sent is not known after an error: an answer may have been lost."""
        if self._link:
            self._link.follower.close()
        self._link = None

    def _tell_away(self, error: Exception) -> None:
        self._forget()
        if not self._away:  # once: it may be away for days
            log.warning("the telemetry of %s does not reach MLflow", self._run, exc_info=error)
            self._note(f"telemetry does not reach MLflow now; run {self._run} goes on, and it is sent later")
        self._away = True

    def _tell_back(self) -> None:
        if self._away:
            self._note(f"MLflow has all of the telemetry of run {self._run} so far")
        self._away = False

    def _lineage(self) -> dict:
        manifest = load_manifest(self._storage, self._dataset)
        return {
            "name": self._dataset.name,
            "digest": self._dataset.digest,
            "samples": sum(manifest.samples.values()),
            "classes": manifest.classes,
            "uri": self._storage.child_uri(self._dataset.folder),
        }


def _line(error: Exception) -> str:
    return redact_within(first_line(error))
