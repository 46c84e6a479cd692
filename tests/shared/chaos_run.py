"""A training run that may be disturbed, and what it must come to all the same."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disturbances import INJECTED, Disturbance, Disturbances
from ganline_command import Ganline

from pipeline.storage import Storage
from pipeline.training.clock import FIGURES
from pipeline.training.telemetry import read_points

BATCH = 32  # images
STEPS, EVERY, EPOCH = 240, 20, 125  # steps in all, between checkpoints, and in an epoch
_RECIPE = f"""
name: chaos
data: {{source: mnist5k, held_out: 0.2}}
model: {{width: 4}}
training:
  {{images: {STEPS * BATCH}, batch: {BATCH}, checkpoint_every: {EVERY * BATCH}, evaluate_every: {STEPS * BATCH},
  log_every: {EVERY * BATCH // 2}, precision: fp32}}
cluster: {{workers: 2}}
"""
_TENSORS = ("generator", "discriminator", "ema", "optimizer_g", "optimizer_d")
_VALUES = ("step", "meter", "strength", "health")
# Of telemetry, what depends on the clock, the machine or the store.
_CIRCUMSTANCES = (*FIGURES, "checkpoints_failed")


@dataclass
class Run:
    """A storage root with the dataset in it, the command, and what will happen to it."""

    ganline: Ganline
    disturbances: Disturbances
    measured: dict[str, Any]
    settings: list[str] = field(default_factory=list)
    storage: Storage | None = None  # where that is not on this disk

    @property
    def command(self) -> list[str]:
        sets = [part for setting in self.settings for part in ("--set", setting)]
        return ["train", "chaos.yaml", *sets]

    def train(self) -> dict:
        """To the end; what the command gave."""
        self.began = time.time()
        result = self.ganline(*self.command, "--json")
        self.said = result.err
        return result.json

    def slowly(self, seconds: float, first: int = 0, last: int = STEPS) -> None:
        """Each of these steps takes so much longer, so that what has to come in its time does."""
        self.disturbances.will(Disturbance("pace", "wait", "step", first, last, rank=0, times=-1, seconds=seconds))

    def start_until(self, ready: Callable[[], bool]) -> subprocess.Popen:
        return self.ganline.start_until(ready, *self.command)

    def start_until_step(self, step: int) -> subprocess.Popen:
        return self.start_until(lambda: self.disturbances.at() >= step)

    @property
    def folder(self) -> Path:
        (folder,) = (self.ganline.root / "runs").glob("chaos-*")
        return folder

    def seconds_to_first_step(self) -> float:
        """From its start, of a run that was not stopped."""
        return self.disturbances.steps()[0].time - self.began

    def saved_steps(self) -> list[int]:
        """Of the complete checkpoints."""
        return [_complete(checkpoint)["step"] for checkpoint in self.ganline.checkpoints()]

    def ends_as(self, other: "Run", since: int = 0) -> None:
        """Asserts the same bits in all that training changes, the same figures, the same samples and weights at
        each step from `since` on, on every rank and however often it was taken; nothing left running."""
        assert self.ganline.left_running() == []
        ours, theirs = self.ganline.checkpoints()[-1], other.ganline.checkpoints()[-1]
        assert _complete(ours)["step"] == _complete(theirs)["step"] == STEPS
        for name in _TENSORS:
            assert (ours / f"{name}.safetensors").read_bytes() == (theirs / f"{name}.safetensors").read_bytes(), name
        assert _values(ours) == _values(theirs)
        assert self.figures() == other.figures()
        for of in (Disturbances.consumed, Disturbances.weights):
            at_each = of(other.disturbances)
            assert of(self.disturbances) == {step: at_each[step] for step in range(since, STEPS)}

    def points(self) -> list[dict]:
        """Of its telemetry."""
        return read_points(self.storage or Storage(str(self.ganline.root)), self.folder.name)

    def figures(self) -> list[tuple[int, dict]]:
        return [
            (point["images"], {k: v for k, v in point["metrics"].items() if k not in _CIRCUMSTANCES})
            for point in self.points()
        ]


def _values(checkpoint: Path) -> dict:
    values = json.loads((checkpoint / "state.json").read_text())
    return {key: values[key] for key in _VALUES}


def _complete(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "COMPLETE").read_text())


def prepared(folder: Path) -> tuple[Ganline, Disturbances]:
    disturbances = Disturbances(folder / "chaos")
    path = os.pathsep.join(filter(None, (str(INJECTED), os.environ.get("PYTHONPATH"))))
    ganline = Ganline(folder, PYTHONPATH=path, **disturbances.environment)
    (folder / "chaos.yaml").write_text(_RECIPE)
    return ganline, disturbances
