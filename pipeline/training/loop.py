"""The training loop, and what happens every so often in it."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from pipeline.training.clock import Clock
from pipeline.training.health import NotFinite
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


def train(
    state: TrainState,
    step: Step,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    batch: int,
    total_steps: int,
    most_not_finite: int,
    periodic: list[Periodic],
    clock: Clock,
    wants_stop: Callable[[], bool],
    before_step: Callable[[int], None] = lambda step: None,
    is_done: Callable[[TrainState], bool] = lambda state: False,
) -> None:
    """Trains until `total_steps`, until all ranks find it done, or until a rank wants to stop.

    Raises NotFinite after `most_not_finite` steps in a row that had to be skipped.
    `batches` yields this rank's images and labels from `state.step` on. Actions are taken in the order given.
    """
    stop = False
    source = iter(batches)
    while state.step < total_steps and not stop and not is_done(state):
        before_step(state.step)
        begun = time.perf_counter()
        images, labels = next(source)
        waited = time.perf_counter() - begun
        figures, stop = step(images, labels, wants_stop())
        clock.add(time.perf_counter() - begun, waited)
        if not state.health.in_a_row:
            state.meter.add(figures)
        elif state.health.in_a_row >= most_not_finite:
            bad = next(name for name, value in figures.items() if not math.isfinite(value))
            raise NotFinite(f"{bad} is {figures[bad]} at image {state.step * batch:,}")
        last = state.step == total_steps
        for action in periodic:
            if last or (stop and action.at_stop) or action.due(state.step * batch, batch):
                action.act(state)
