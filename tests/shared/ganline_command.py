"""Runs the real command in a process of its own, as a user would."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hurry import within

_LIMIT_SECONDS = 420  # several times what the longest takes on two cores that others work on too
_MARK = "GANLINE_TEST_MARK"

# Trains in seconds; enough checkpoints to stop and to kill between.
_TINY = """
name: tiny
data: {source: mnist5k}
model: {width: 8}
training: {images: 12000, batch: 64, checkpoint_every: 1500, evaluate_every: 6000, log_every: 1000}
evaluation: {images: 200}
release: {minimum_coverage: 0} # so little training makes nothing that is like a digit
"""


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """Standard output, which must be one JSON object and nothing else."""
        assert self.code == 0, self.err
        return json.loads(self.out)


class Ganline:
    """`ganline` with a storage root of its own; of the environment's services it sees what it is given."""

    def __init__(self, folder: Path, **env: str):
        self.folder, self.root = folder, folder / "root"
        self.mark = uuid.uuid4().hex
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "PREFECT_", "GANLINE_"))},
            "GANLINE_STORAGE": str(self.root),
            "RAY_worker_niceness": "0",  # or everything else that the tests run goes first, and training stands still
            _MARK: self.mark,
            **env,
        }
        self._command = [str(Path(sys.executable).parent / "ganline")]

    def tiny(self, workers: int = 2) -> str:
        """A recipe for runs of a few seconds, written where the command runs; without workers Ray trains nothing, and
        the seconds that a group takes to start are saved."""
        (self.folder / "tiny.yaml").write_text(f"{_TINY}cluster: {{workers: {workers}, cpus_per_worker: 1}}\n")
        return "tiny.yaml"

    def __call__(self, *arguments: object, **env: str) -> Result:
        try:
            done = subprocess.run(
                [*self._command, *map(str, arguments)],
                cwd=self.folder, env={**self.env, **env}, capture_output=True, text=True, timeout=_LIMIT_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            logs = [path.read_text(errors="replace")[-4000:] for path in self.root.glob("logs/*")]
            pytest.fail(f"{late}; it said:\n{(late.stderr or b'').decode()}\nand in its logs:\n" + "\n".join(logs))
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object) -> subprocess.Popen:
        """In a session of its own, so that a whole process group can be signalled like a terminal does."""
        return subprocess.Popen(
            [*self._command, *map(str, arguments)],
            cwd=self.folder, env=self.env, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def start_until(self, ready: Callable[[], bool], *arguments: object) -> subprocess.Popen:
        process = self.start(*arguments)
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not ready():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    def left_running(self, patience: float = within(10)) -> list[str]:
        """Command lines of processes that descend from this object's commands and do not end in time."""
        deadline = time.monotonic() + patience
        while (alive := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return list(alive.values())

    def end_all(self) -> None:
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)

    def checkpoints(self) -> list[Path]:
        """Complete ones, oldest first."""
        return sorted(marker.parent for marker in self.root.glob("runs/*/checkpoints/*/COMPLETE"))

    def alive(self) -> dict[int, str]:
        """By process id, the command lines of what descends from this object's commands."""
        mark = f"{_MARK}={self.mark}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended meanwhile
        return found
