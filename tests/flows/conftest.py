"""The real command, and the services that it is given."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ganline_command import Ganline

from flows.prefect_api import temporary_api


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
