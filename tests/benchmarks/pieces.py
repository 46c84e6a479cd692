"""A recipe trained for some minutes by the `ganline` command, in as many pieces as it takes.

What counts is the time that steps took, as the run's own telemetry tells: starts, checkpoints and what else goes on
between pieces cost nothing. Every checkpoint is kept, so that the generator can be measured over the images.
"""

import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.recipe import load_config
from pipeline.shards.manifest import DatasetRef, latest_version
from pipeline.storage import Storage
from pipeline.training.checkpoint import (
    BadCheckpoint,
    CheckpointRef,
    keep_checkpoint,
    run_folder,
    verify_checkpoint,
)
from pipeline.training.plan import RunPlan, plan_run
from pipeline.training.telemetry import Point, read_points

GANLINE = str(Path(sys.executable).parent / "ganline")
_LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Pieces:
    """What all of them together came to. `checkpoints` are all that were made, from the first on."""

    config: Config
    dataset: DatasetRef
    plan: RunPlan
    points: list[Point]
    checkpoints: list[CheckpointRef]

    @property
    def images(self) -> int:
        """As far as the last checkpoint."""
        return self.checkpoints[-1].images if self.checkpoints else 0

    @property
    def seconds(self) -> float:
        """That it took to train as far as the last checkpoint."""
        return _seconds([point for point in self.points if point["images"] <= self.images])

    def spread(self, most: int) -> list[CheckpointRef]:
        """`most` of the checkpoints, evenly spread, with the last one among them."""
        places = sorted({round(place) for place in np.linspace(len(self.checkpoints) - 1, 0, most)})
        return [self.checkpoints[place] for place in places]


def train_for(minutes: float, recipe: str, sets: list[str], storage: Storage) -> Pieces:
    """Trains until so many minutes of steps, or `training.images`, whichever comes first; done before, it is told.

    Interrupted in any way, the same call goes on. Raises SystemExit where the command fails.
    """
    watch = _Watch(storage, load_config(recipe, sets))
    told = [argument for each in sets for argument in ("--set", each)]
    command = [GANLINE, "run", recipe, *told, "--storage", storage.uri]
    if (pieces := watch.look()) and _is_enough(pieces, minutes):
        return pieces
    begun, asked = time.time(), False
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            time.sleep(_LOOK_SECONDS)
            pieces = watch.look()
            if asked or pieces is None or _is_all(pieces) or not pieces.points:
                continue
            # What an attempt that was killed has left is dropped once training goes on, and counts no more.
            if pieces.points[-1]["time"] > begun and _seconds(pieces.points) >= 60 * minutes:
                process.send_signal(signal.SIGINT)  # it stops at a checkpoint
                asked = True
    except KeyboardInterrupt:  # which the command has heard too
        process.wait()
        raise SystemExit("interrupted; start the same command again and it continues") from None
    pieces = watch.look()
    if process.returncode not in (0, 128 + signal.SIGINT) or pieces is None or not _is_enough(pieces, minutes):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}; start again and it continues")
    return pieces


def over_images(*plots: Axes) -> None:
    """Says what their horizontal axes are, in thousands and millions."""
    for plot in plots:
        plot.set_xlabel("images seen")
        plot.xaxis.set_major_formatter(EngFormatter(sep=""))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpus": os.cpu_count(), "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__, "gpus": torch.cuda.device_count(),
    }  # fmt: skip


class _Watch:
    """Looks at a run from outside, and keeps its checkpoints from being pruned."""

    def __init__(self, storage: Storage, config: Config):
        self.storage, self.config = storage, config
        self.kept: dict[str, CheckpointRef] = {}

    def look(self) -> Pieces | None:
        """None until there is the dataset."""
        dataset = latest_version(self.storage, self.config.name)
        if dataset is None:
            return None
        try:
            plan = plan_run(self.storage, self.config, dataset)
        except UserError:  # the dataset is another recipe's, until the command has made ours
            return None
        for entry in self.storage.list(f"{run_folder(plan.run)}/checkpoints"):
            if entry.path in self.kept or not self.storage.exists(f"{entry.path}/COMPLETE"):
                continue
            with suppress(BadCheckpoint):
                checkpoint = verify_checkpoint(self.storage, plan.run, entry.path)
                keep_checkpoint(self.storage, checkpoint.path)
                self.kept[entry.path] = checkpoint
        checkpoints = sorted(self.kept.values(), key=lambda checkpoint: checkpoint.step)
        points = read_points(self.storage, plan.run)
        return Pieces(self.config, dataset, plan, points, checkpoints)


def _is_enough(pieces: Pieces, minutes: float) -> bool:
    return _is_all(pieces) or pieces.seconds >= 60 * minutes


def _is_all(pieces: Pieces) -> bool:
    return pieces.images >= pieces.config.training.images


def _seconds(points: list[Point]) -> float:
    total, before = 0.0, 0
    for point in points:
        total += (point["images"] - before) / point["metrics"]["images_per_second"]
        before = point["images"]
    return total
