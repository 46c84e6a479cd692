"""MLflow slow, dead at the start, in the middle, at the end, for ever: the same weights, and every point once."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_run import BATCH, STEPS, Run
from mlflow_server import MlflowServer

from pipeline.training.clock import FIGURES

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported


@pytest.fixture
def server(run: Run, tmp_path: Path) -> Iterator[MlflowServer]:
    """The only MLflow that the run knows of."""
    (tmp_path / "mlflow").mkdir()
    server = MlflowServer(tmp_path / "mlflow")
    run.ganline.env |= {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    server.start()
    server.ready()
    yield server
    server.kill()


def test_slow_then_dead_then_back(run, left_alone, server):
    run.slowly(0.08)
    process = run.start_until_step(40)
    server.hang()
    _wait_for_step(run, 80)
    server.go_on()
    _wait_for_step(run, 120)
    server.kill()
    _wait_for_step(run, 180)
    server.start()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    run.ends_as(left_alone())
    _has_every_point_once(run, server, "FINISHED")


def test_dead_from_the_start_to_the_end_and_back_for_the_next_command(run, left_alone, server):
    process = run.start_until(lambda: any(run.ganline.root.glob("logs/*train*")))  # it has answered the preflight
    server.kill()
    _, said = process.communicate(timeout=400)
    assert process.returncode == 1 and "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert "is trained and safe in" in last and "start the same command again" in last
    run.ends_as(left_alone())

    server.start()
    server.ready()
    assert run.train()["run"]["resumed_from"] == STEPS * BATCH
    run.ends_as(left_alone())
    _has_every_point_once(run, server, "FINISHED")


def test_a_driver_that_is_killed_goes_on_without_it_and_sends_nothing_twice(run, left_alone, server):
    run.slowly(0.05)
    run.slowly(5.0, 151, 158)  # so that the point of step 150 is sent, and the next checkpoint is not there yet
    process = run.start_until_step(70)
    server.kill()
    _wait_for_step(run, 120)
    server.start()
    server.ready()
    _wait_for_point(run, server, 150 * BATCH)
    server.kill()
    process.kill()
    process.communicate()
    assert run.ganline.left_running() == [] and max(run.saved_steps()) == 140

    process = run.start_until_step(170)  # at night, with nobody to mend it
    server.start()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and "is trained without it meanwhile" in said
    run.ends_as(left_alone())
    _has_every_point_once(run, server, "FINISHED")


def _wait_for_step(run: Run, step: int) -> None:
    deadline = time.monotonic() + 200
    while run.disturbances.at() < step:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _wait_for_point(run: Run, server: MlflowServer, images: int) -> None:
    from mlflow.tracking import MlflowClient

    client, deadline = MlflowClient(server.uri), time.monotonic() + 60
    (found,) = client.search_runs(["1"], f"tags.`ganline.run` = '{run.folder.name}'")
    while client.get_run(found.info.run_id).data.metrics.get("images_seen", -1) < images:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _has_every_point_once(run: Run, server: MlflowServer, status: str) -> None:
    from mlflow.tracking import MlflowClient

    server.ready()
    client = MlflowClient(server.uri)
    (found,) = client.search_runs(["1"], f"tags.`ganline.run` = '{run.folder.name}'")  # one, whatever happened
    assert found.info.status == status
    points = [json.loads(line) for line in (run.folder / "telemetry.jsonl").read_text().splitlines()]
    names = {name for point in points for name in point["metrics"]}
    assert {"loss_g", "loss_d"} <= names
    for name in names:
        ours = [(point["images"], point["metrics"][name]) for point in points if name in point["metrics"]]
        theirs = sorted((one.step, one.value) for one in client.get_metric_history(found.info.run_id, name))
        if name in FIGURES:  # measured anew after a kill, by another clock
            ours, theirs = [(images, 0) for images, _ in ours], [(images, 0) for images, _ in theirs]
        assert theirs == ours, name
