"""The training loop, and what happens every so often in it."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from pipeline.training.state import TrainState
from pipeline.training.step import Step


@dataclass(frozen=True)
class Periodic:
    """`act` is called whenever another `every` images have been seen, and after the last step.

    With `at_stop`, also when the run is stopped before that.
    """

    every: int
    act: Callable[[TrainState], None]
    at_stop: bool = False

    def due(self, images: int, batch: int) -> bool:
        return images // self.every > (images - batch) // self.every


@dataclass
class Clock:
    """Where the time since the last telemetry point went, in seconds."""

    total: float = 0.0
    waited: float = 0.0
    steps: int = 0

    def add(self, total: float, waited: float) -> None:
        self.total, self.waited, self.steps = self.total + total, self.waited + waited, self.steps + 1

    def take(self, batch: int) -> dict[str, float]:
        """`images_per_second` over all ranks and `data_wait_share`, and a fresh start."""
        total = max(self.total, 1e-9)
        speeds = {"images_per_second": self.steps * batch / total, "data_wait_share": self.waited / total}
        self.total, self.waited, self.steps = 0.0, 0.0, 0
        return speeds


class Diverged(Exception):
    """A loss or logit that is not finite, the same on every rank. Says which, and at which image."""


def train(
    state: TrainState,
    step: Step,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    batch: int,
    total_steps: int,
    periodic: list[Periodic],
    clock: Clock,
    wants_stop: Callable[[], bool],
) -> bool:
    """Trains until `total_steps` or until a rank wants to stop; returns whether it was stopped.

    Raises Diverged before anything is saved of a step whose figures are not finite.
    `batches` yields this rank's images and labels from `state.step` on. Actions are taken in the order given.
    """
    stop = False
    source = iter(batches)
    while state.step < total_steps and not stop:
        begun = time.perf_counter()
        images, labels = next(source)
        waited = time.perf_counter() - begun
        figures, stop = step(images, labels, wants_stop())
        if bad := [name for name, value in figures.items() if not math.isfinite(value)]:
            raise Diverged(f"{bad[0]} is {figures[bad[0]]} at image {state.step * batch:,}")
        state.meter.add(figures)
        clock.add(time.perf_counter() - begun, waited)
        last = state.step == total_steps
        for action in periodic:
            if last or (stop and action.at_stop) or action.due(state.step * batch, batch):
                action.act(state)
    return stop and state.step < total_steps
