"""Where a rank's time goes between two telemetry points."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

FIGURES = (
    "images_per_second", "data_wait_share", "checkpoint_share",
    "step_ms_p50", "step_ms_p95", "step_ms_max", "memory_mb",
)  # fmt: skip


@dataclass
class Clock:
    """Seconds since the last telemetry point. No part of the state: another attempt has another clock."""

    begun: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    saved: float = 0.0
    steps: list[float] = field(default_factory=list)

    def add(self, step: float, waited: float) -> None:
        """A step, `waited` for its batch before it."""
        self.steps.append(step)
        self.waited += waited

    def restart(self) -> None:
        self.begun, self.waited, self.saved, self.steps = time.perf_counter(), 0.0, 0.0, []

    @contextmanager
    def saving(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.saved += time.perf_counter() - begun

    def take(self, batch: int, device: torch.device) -> dict[str, float]:
        """`FIGURES`, and a fresh start: `images_per_second` over all ranks with all that happens between steps, what
        shares of the time went into waiting for data and into a checkpoint's snapshots, and this rank's memory."""
        total = max(time.perf_counter() - self.begun, 1e-9)
        p50, p95, most = np.percentile(self.steps, (50, 95, 100)) * 1000 if self.steps else (0.0, 0.0, 0.0)
        values = (
            len(self.steps) * batch / total, self.waited / total, self.saved / total,
            float(p50), float(p95), float(most), _memory(device),
        )  # fmt: skip
        self.restart()
        return dict(zip(FIGURES, values, strict=True))


def _memory(device: torch.device) -> float:
    """MiB at most so far: the GPU's, as far as torch holds it, or this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
