"""Shows MLflow what a run's telemetry says, in the background: training never waits for it."""

import logging
import time
from threading import Event, Thread
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.progress import watcher
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.storage import Storage
from pipeline.training.checkpoint import run_folder
from pipeline.training.telemetry import read_points

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_PERIOD_SECONDS = 5.0
_LAST_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds: a sqlite file may be locked, a server restart
_FINISH_SECONDS = 180.0
_ABANDON_SECONDS = 10.0
log = logging.getLogger(__name__)


class Sink:
    """Opens the run's MLflow run and sends it each new point and sample grid, until `finish`.

    The telemetry file stays the truth: what could not be sent is sent later, and every point once.
    """

    def __init__(self, storage: Storage, config: Config, run: str, dataset: DatasetRef):
        self._storage, self._config, self._run, self._dataset = storage, config, run, dataset
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._sent_grids: set[str] = set()
        self._status = "FINISHED"
        self._error: Exception | None = None
        self._note = watcher.get().note  # the thread has a context of its own
        self._ending = Event()
        self._thread = Thread(target=self._follow, name="mlflow-sink", daemon=True)
        self._thread.start()

    def finish(self, status: str) -> str:
        """Sends what is left, sets FINISHED, FAILED or KILLED, and returns the MLflow run's id.

        Raises TimeoutError, or what MLflow raises, if that can not be done now.
        """
        self._end(status, _FINISH_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"MLflow did not take the telemetry of {self._run} within {_FINISH_SECONDS:.0f} s")
        if self._error or not self._run_id:
            raise self._error or RuntimeError("MLflow gave no run")
        return self._run_id

    def abandon(self, status: str) -> None:
        """Like `finish`, but for a run that ends early: soon, and without an error of its own."""
        self._end(status, _ABANDON_SECONDS)
        if self._thread.is_alive() or self._error:
            log.warning("MLflow was not told that %s is %s", self._run, status, exc_info=self._error)

    def _end(self, status: str, patience: float) -> None:
        self._status = status
        self._ending.set()
        self._thread.join(patience)

    def _follow(self) -> None:
        told = False
        while not self._ending.is_set():
            try:
                self._send()
            except Exception:
                log.exception("MLflow did not take the telemetry of %s; trying again", self._run)
                if not told:
                    self._note(f"MLflow does not take the telemetry now; run {self._run} goes on, and it is sent later")
                    told = True
            self._ending.wait(_PERIOD_SECONDS)
        for pause in (*_LAST_PAUSES, None):
            try:
                from pipeline.registry.runs import finish_run

                finish_run(*self._send(), self._status)
                self._error = None
                return
            except Exception as error:
                self._error = error
            if pause:
                log.warning(
                    "MLflow did not take the end of %s; again in %.0f s", self._run, pause, exc_info=self._error
                )
                time.sleep(pause)

    def _send(self) -> tuple["MlflowClient", str]:
        # Here, in the background: importing MLflow and making its database take seconds.
        from pipeline.registry.runs import log_file, open_run, send_points
        from pipeline.registry.server import client

        self._client = self._client or client(self._storage)
        self._run_id = self._run_id or open_run(self._client, self._config, self._run, self._lineage())
        send_points(self._client, self._run_id, read_points(self._storage, self._run))
        for grid in self._storage.list(f"{run_folder(self._run)}/grids"):
            if grid.path not in self._sent_grids:
                name = grid.path.rpartition("/")[2]
                log_file(self._client, self._run_id, self._storage.read(grid.path), f"grids/{name}")
                self._sent_grids.add(grid.path)
        return self._client, self._run_id

    def _lineage(self) -> dict:
        manifest = load_manifest(self._storage, self._dataset)
        return {
            "name": self._dataset.name,
            "digest": self._dataset.digest,
            "samples": sum(manifest.samples.values()),
            "classes": manifest.classes,
            "uri": self._storage.child_uri(self._dataset.folder),
        }
