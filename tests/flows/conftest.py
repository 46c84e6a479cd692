"""Runs the real command in a process of its own, as a user would."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.prefect_api import temporary_api

_LIMIT_SECONDS = 420  # several times what the longest takes on two cores that others work on too
_MARK = "GANLINE_TEST_MARK"

# Trains in seconds; enough checkpoints to stop and to kill between.
_TINY = """
name: tiny
data: {source: mnist5k}
model: {width: 8}
training: {images: 12000, batch: 64, checkpoint_every: 1500, evaluate_every: 6000, log_every: 1000}
evaluation: {images: 200}
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

    def tiny(self) -> str:
        """A recipe for runs of a few seconds, written where the command runs."""
        (self.folder / "tiny.yaml").write_text(_TINY)
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

    def left_running(self, patience: float = 10.0) -> list[str]:
        """Command lines of processes that descend from this object's commands and do not end in time."""
        deadline = time.monotonic() + patience
        while (alive := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return list(alive.values())

    def end_all(self) -> None:
        for pid in self._alive():
            os.kill(pid, signal.SIGKILL)

    def checkpoints(self) -> list[Path]:
        """Complete ones, oldest first."""
        return sorted(marker.parent for marker in self.root.glob("runs/*/checkpoints/*/COMPLETE"))

    def _alive(self) -> dict[int, str]:
        mark = f"{_MARK}={self.mark}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended meanwhile
        return found


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Prefect server for the session: a first start takes ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_API_URL", "PREFECT_HOME"):
            patch.setenv(name, "")  # put back afterwards
        with temporary_api(tmp_path_factory.mktemp("prefect")) as api:
            assert api is not None
            api.ready()
            yield api.url


@pytest.fixture(scope="session")
def make_ganline() -> type[Ganline]:
    return Ganline


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Ganline]:
    """With no service at all: everything runs in the command and ends with it."""
    command = Ganline(tmp_path)
    yield command
    command.end_all()


@pytest.fixture
def ganline(tmp_path: Path, prefect_url: str) -> Iterator[Ganline]:
    command = Ganline(tmp_path, PREFECT_API_URL=prefect_url)
    yield command
    command.end_all()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, prefect_url: str) -> Iterator[Ganline]:
    """With one run that nobody stopped and that has been released, for tests that look at different sides of it."""
    command = Ganline(tmp_path_factory.mktemp("finished"), PREFECT_API_URL=prefect_url)
    assert command("run", command.tiny(), "--json").json["run"]["resumed_from"] == 0
    assert command.left_running() == []
    shutil.copytree(command.root / "runs", command.folder / "left-alone")
    yield command
    command.end_all()


@pytest.fixture(scope="session")
def left_alone(finished: Ganline) -> Path:
    """The folder of runs as that one left it, whatever was done to it afterwards."""
    return finished.folder / "left-alone"
