"""A run's figures over images, as JSON lines in its folder: `{"images", "time", "metrics"}` each.

The file is the truth; MLflow and the terminal are shown what it says. On local disk a point is appended
and flushed; an object store, which can not append, gets the whole (small) file anew.
"""

import json
import os
from typing import Any

from pipeline.storage import Storage
from pipeline.training.checkpoint import run_folder

Point = dict[str, Any]


def telemetry_path(run: str) -> str:
    return f"{run_folder(run)}/telemetry.jsonl"


def read_points(storage: Storage, run: str) -> list[Point]:
    """Every whole point so far; a line that a crash or a full disk cut short is left out."""
    try:
        data = storage.read(telemetry_path(run))
    except FileNotFoundError:
        return []
    points = []
    for line in data.splitlines():
        try:
            points.append(json.loads(line))
        except ValueError:
            continue
    return points


class TelemetryFile:
    """The writer's side; one process a run holds it."""

    def __init__(self, storage: Storage, run: str, resume_images: int):
        """Drops points past `resume_images`: the run will measure those again."""
        self.storage, self.run, self._torn = storage, run, False
        self.points = [point for point in read_points(storage, run) if point["images"] <= resume_images]
        self._publish()

    def append(self, point: Point) -> None:
        """Raises OSError if it can not be written now; the next one that can takes it along."""
        self.points.append(point)
        if self._torn or not self.storage.is_local:
            self._publish()
            return
        self._torn = True  # until the line is there in full
        with open(self.storage.local_path(telemetry_path(self.run)), "ab") as file:
            file.write(_line(point))
            file.flush()
            os.fsync(file.fileno())
        self._torn = False

    def _publish(self) -> None:
        self.storage.write(telemetry_path(self.run), b"".join(map(_line, self.points)))
        self._torn = False


def _line(point: Point) -> bytes:
    return json.dumps(point).encode() + b"\n"
