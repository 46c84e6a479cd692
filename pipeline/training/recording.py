"""What the first rank keeps of a run as it goes: points of telemetry, sample grids, checkpoints."""

import json
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pipeline.pictures import tile
from pipeline.shards.damage import DamagedShard
from pipeline.shards.manifest import load_manifest
from pipeline.shards.opened import open_view
from pipeline.training.alarms import Alarm, alarms
from pipeline.training.attempt import begin_attempt
from pipeline.training.checkpoint import Keeping, run_folder, save_checkpoint
from pipeline.training.clock import Clock
from pipeline.training.diversity import Variances, diversity, real_variances, variances
from pipeline.training.grid import columns_of, samples
from pipeline.training.job import Job
from pipeline.training.saver import Saver
from pipeline.training.state import Snapshot, TrainState
from pipeline.training.telemetry import Point, TelemetryFile

_FLUSH_SECONDS = 30.0  # a store that is away for longer will take no checkpoint either
# What was measured is worth little without the state that it was measured of.
_PATIENCE_SECONDS = 10.0
log = logging.getLogger(__name__)


class Recorder:
    """Nothing here holds up a step for longer than a copy or a line takes, and nothing but `finish` ends a run."""

    def __init__(self, job: Job, state: TrainState, clock: Clock):
        self._job, self._clock = job, clock
        self._telemetry = TelemetryFile(job.storage, job.plan.run, state.step * job.config.training.batch)
        attempt, training = begin_attempt(job.storage, job.plan.run), job.config.training
        keeping = Keeping(training.keep_last, training.keep_best)

        def save(snapshot: Snapshot, metrics: Mapping[str, float]) -> None:
            # Points up to a checkpoint will not be measured again.
            if not self._telemetry.flush(_FLUSH_SECONDS):
                log.warning("the checkpoint of step %d comes before the telemetry up to it", snapshot.step)
            save_checkpoint(
                job.storage, job.plan.run, snapshot, training.batch,
                attempt=attempt, metrics=metrics, keeping=keeping,
            )  # fmt: skip

        self._saver = Saver(save)
        self._pictures = ThreadPoolExecutor(1, "pictures")
        self._extra: dict[str, float] = {}  # for the next point
        self._pointed, self._saved = -1, -1  # the steps of the last point and of the last checkpoint
        self._real: Variances | None = None
        self._alarmed: set[str] = set()
        self._warnings: list[dict[str, str]] = []

    def evaluated(self, state: TrainState, measured: Mapping[str, float], names: Mapping[str, str]) -> None:
        """A sample grid, and a point and a checkpoint of what was `measured`; `names` are these figures' full ones."""
        self._extra = {**measured, **self._grid(state)}
        self.point(state)
        if measured:
            self._write_soon("figures.json", json.dumps(names, indent=1).encode())
            self.checkpoint(state, measured)

    def checkpoint(self, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
        if state.step == self._saved:
            return
        self._saved = state.step
        with self._clock.saving():
            self._saver.save(state.snapshot(), metrics or {}, _PATIENCE_SECONDS if metrics else 0.0)

    @property
    def superseded(self) -> bool:
        """Another attempt has taken the run over: there is nothing left to do here."""
        return self._saver.superseded

    def warn(self, code: str, line: str) -> None:
        """To be told with the next point."""
        self._warnings.append({"code": code, "line": line})

    def close(self) -> None:
        """Waits for what is being written."""
        with suppress(Exception):  # it is in the log
            self.finish()

    def finish(self) -> None:
        """Waits for what is being written. Raises what the last checkpoint failed with."""
        self._pictures.shutdown()
        try:
            self._saver.finish()
        finally:
            self._saver.close()
            self._telemetry.close()

    def point(self, state: TrainState) -> None:
        if state.step == self._pointed:
            return
        self._pointed = state.step
        training = self._job.config.training
        images, device = state.step * training.batch, next(state.generator.parameters()).device
        figures = {**state.meter.take(), **self._clock.take(training.batch, device), **self._extra}
        if state.health.skipped:
            figures["skipped_steps"] = float(state.health.skipped)
        if self._saver.failures:
            figures["checkpoints_failed"] = float(self._saver.failures)
        self._sound(alarms(figures, images, training))
        point: Point = {"images": images, "time": time.time(), "metrics": figures}
        if self._warnings:
            point["warnings"] = self._warnings
        self._telemetry.append(point)
        self._extra, self._warnings = {}, []

    def _sound(self, found: list[Alarm]) -> None:
        """Each once, and again where it had ceased."""
        for alarm in found:
            if alarm.code not in self._alarmed:
                self.warn(alarm.code, alarm.line)
        self._alarmed = {alarm.code for alarm in found}

    def _grid(self, state: TrainState) -> dict[str, float]:
        """How varied its samples are, where that can be told."""
        spec = self._job.plan.spec
        pixels, labels = samples(state.ema, spec)
        images = state.step * self._job.config.training.batch
        self._write_soon(f"grids/{images:012d}.png", tile(pixels, columns_of(spec)))
        try:
            self._real = self._real or self._look_at_real()
        except (OSError, DamagedShard):
            log.warning("cannot look at real images now", exc_info=True)
            return {}
        varied = diversity(variances(pixels, labels), self._real)
        return {} if varied is None else {"diversity": varied}

    def _look_at_real(self) -> Variances:
        storage, plan, data = self._job.storage, self._job.plan, self._job.config.data
        view = open_view(storage, plan.dataset, load_manifest(storage, plan.dataset), data)
        return real_variances(storage, plan.dataset, plan.spec.classes, view)

    def _write_soon(self, name: str, data: bytes) -> None:
        self._pictures.submit(self._write, f"{run_folder(self._job.plan.run)}/{name}", data)

    def _write(self, path: str, data: bytes) -> None:
        try:
            self._job.storage.write(path, data)
        except OSError:
            log.warning("could not write %s", path, exc_info=True)
