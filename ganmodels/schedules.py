"""Values that change over a run, as plain data: a number, or a way from one to another, counted in images."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """From `start` at the first image to `end` after `over` images, and `end` from then on.

    `shape` is `ramp`, a straight line, or `cosine`, half a cosine wave (Loshchilov & Hutter 2017).
    """

    start: float
    end: float
    over: float
    shape: str = "cosine"


def value(schedule: Schedule | float, images: float) -> float:
    """What holds once `images` have been seen. Raises ValueError for a shape that there is not."""
    if not isinstance(schedule, Schedule):
        return schedule
    if schedule.shape not in ("cosine", "ramp"):
        raise ValueError(f"no shape {schedule.shape!r}; there are cosine, ramp")
    way = min(images / schedule.over, 1.0)
    if schedule.shape == "cosine":
        way = (1 - math.cos(math.pi * way)) / 2
    return schedule.start * (1 - way) + schedule.end * way  # either end exactly, once there
