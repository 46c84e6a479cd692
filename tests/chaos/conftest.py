"""Runs of the real command on real Ray that are disturbed on purpose, and one of each kind that is left alone."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chaos_run import BATCH, EPOCH, STEPS, Run, prepared


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root with nothing but the dataset."""
    ganline, _ = prepared(tmp_path_factory.mktemp("dataset"))
    assert ganline("shard", "mnist5k", "--name", "chaos", "--held-out", "0.2", "--json").json["samples"] == 5000
    (manifest,) = ganline.root.glob("datasets/chaos/versions/*/manifest.json")
    assert json.loads(manifest.read_text())["samples"]["train"] // BATCH == EPOCH
    return ganline.root


@pytest.fixture(scope="session")
def left_alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """The run of these settings that nobody disturbed, made once."""

    @cache
    def made(*settings: str) -> Run:
        folder = tmp_path_factory.mktemp("left-alone")
        shutil.copytree(dataset, folder / "root")
        run = Run(*prepared(folder), {}, list(settings))
        assert run.train()["run"]["resumed_from"] == 0
        assert run.ganline.left_running() == []
        assert len(run.disturbances.consumed()) == STEPS
        return run

    return made


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a test writes here goes into the report."""
    request.node.measured = {}
    return request.node.measured


@pytest.fixture
def new_run(dataset: Path, tmp_path: Path, measured: dict[str, Any]) -> Iterator[Callable[..., Run]]:
    """Makes a run of the settings that it is given, in a storage root of its own."""
    made: list[Run] = []

    def new(*settings: str) -> Run:
        folder = tmp_path / f"run{len(made)}"
        shutil.copytree(dataset, folder / "root")
        made.append(Run(*prepared(folder), measured, list(settings)))
        return made[-1]

    yield new
    for run in made:
        run.ganline.end_all()


@pytest.fixture
def run(new_run: Callable[..., Run]) -> Run:
    return new_run()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """The report that CHAOS_REPORT names gets each test as it ends, so that a run cut short leaves one too."""
    report = yield
    path = os.environ.get("CHAOS_REPORT")
    if path and (report.when == "call" or report.outcome != "passed"):
        _note(
            Path(path),
            item.nodeid,
            {"outcome": report.outcome, "seconds": round(report.duration, 1), **getattr(item, "measured", {})},
        )
    return report


def _note(path: Path, test: str, result: dict[str, Any]) -> None:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        document = {}
    document |= {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "command": "make chaos"}
    document["tests"] = dict(sorted((document.get("tests", {}) | {test: result}).items()))
    path.write_text(json.dumps(document, indent=1) + "\n")
