"""What every test may share. Nothing here starts by itself: Ray takes seconds, and most tests need none."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from faulty_proxy import FaultyProxy, faulty_proxy
from s3_server import CLIENT_ENVIRONMENT, s3_server, s3_uri

if TYPE_CHECKING:
    from gloo_ranks import GlooRanks

from pipeline.progress import Progress, watcher


def pytest_configure() -> None:
    # A shell starts what it puts in the background with SIGINT ignored, and so would all be that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray with two CPUs for the whole session; `pipeline.on_ray.cluster()` joins it."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")  # or what else runs here goes first
    # Ray never clears its sessions away, and its sockets' paths are too long for pytest's own folders.
    folder = tempfile.mkdtemp(prefix="ganline-ray-")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[GlooRanks]":
    """Four processes for the whole session: starting one costs more than all that is asked of it."""
    from gloo_ranks import GlooRanks

    ranks = GlooRanks(4, tmp_path_factory.mktemp("gloo"))
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server for the session; it starts in half a second."""
    with s3_server(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def s3_root(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty storage root on it; the credentials are in the environment."""
    for name, value in CLIENT_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return s3_uri(s3_address, uuid.uuid4().hex)


@pytest.fixture
def proxy(s3_address: str) -> Iterator[FaultyProxy]:
    """Stands before the server and fails when it is told to."""
    with faulty_proxy(s3_address) as proxy:
        yield proxy


@pytest.fixture
def faulty_root(s3_root: str, s3_address: str, proxy: FaultyProxy) -> str:
    """The same root as `s3_root`, through `proxy`."""
    return s3_root.replace(s3_address, proxy.address)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tensors so small that two threads take three times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Heard:
    """What was told of progress: `(stage, done, total)` each time, and the notes."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int | None]] = []
        self.notes: list[str] = []

    def report(self, progress: Progress) -> None:
        self.told.append((progress.stage, progress.done, progress.total))

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture
def heard() -> Iterator[Heard]:
    listener = Heard()
    token = watcher.set(listener)
    yield listener
    watcher.reset(token)
