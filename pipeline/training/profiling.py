"""A trace of chosen steps, for Perfetto or a browser's own viewer."""

import logging
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.storage import Storage
from pipeline.training.checkpoint import run_folder

log = logging.getLogger(__name__)


class Profiler:
    """`at` is told of each step before it is taken; the trace of `training.profile`'s lies in the run's folder after
    the last, one file a rank: `profiles/<first>-<last>-rank<n>.json`. Those steps take longer; their bits are the same.
    """

    def __init__(self, storage: Storage, run: str, steps: str | None, rank: int):
        self._storage, self._running = storage, False
        self._first, self._last = map(int, steps.split("-")) if steps else (-1, -1)
        self._path = f"{run_folder(run)}/profiles/{steps}-rank{rank}.json"

    def at(self, step: int) -> None:
        """`step` is the number of those taken before it."""
        if step == self._first:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._profile = profile(activities=activities)
            self._profile.start()
            self._running = True
        elif self._running and step > self._last:
            self.close()

    def close(self) -> None:
        if not self._running:
            return
        self._running = False
        self._profile.stop()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder, "trace.json")
            self._profile.export_chrome_trace(str(trace))
            try:
                self._storage.upload(trace, self._path)
            except OSError:  # a look at a run must not end it
                log.warning("could not write %s", self._path, exc_info=True)
