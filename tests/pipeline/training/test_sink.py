"""A real MLflow server that is slow, refuses, hangs and dies: every point once, and nobody waits for it."""

import os
import time

import pytest
from faulty_proxy import faulty_proxy
from hurry import within
from mlflow_server import MlflowServer

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from pipeline.errors import Unavailable
from pipeline.training import sink as module
from pipeline.training.sink import Sink
from pipeline.training.telemetry import TelemetryFile


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    server.ready()
    yield server
    server.go_on()
    server.kill()


@pytest.fixture
def road(server, monkeypatch):
    """The way to the server, which is the only one that is known."""
    with faulty_proxy(server.address) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{proxy.address}")
        yield proxy


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_PERIOD_SECONDS", 0.05)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(module, "_LAST_PAUSES", (0.2,))


@pytest.fixture
def mlflow(server):
    from mlflow.tracking import MlflowClient

    return MlflowClient(server.uri)


@pytest.fixture
def begin(trainer):
    """Starts the sink of a run, as the driver does."""
    return lambda run: Sink(trainer.storage, trainer.config(), run, trainer.dataset)


def point(images: int, **metrics: float) -> dict:
    return {"images": images, "time": images / 10, "metrics": {"loss": images / 3, **metrics}}


def the_run(mlflow, run: str):
    """The only one."""
    (found,) = mlflow.search_runs(["1"], f"tags.`ganline.run` = '{run}'")
    return found


def history(mlflow, run: str, name: str = "loss") -> list[tuple[int, float]]:
    """In the order in which it came, as far as MLflow tells."""
    return [(one.step, one.value) for one in mlflow.get_metric_history(the_run(mlflow, run).info.run_id, name)]


def once(images: range) -> list[tuple[int, float]]:
    return [(one, one / 3) for one in images]


def until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + within(seconds)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_slow_lost_refused_and_broken_off_every_point_comes_once(road, mlflow, begin, trainer, run_name, heard):
    run = run_name()
    trainer.storage.write(f"runs/{run}/grids/000000000100.png", b"a picture")
    for fault in ("lost", "reset"):
        road.fail(fault, 1, path="runs/create")
    for fault, times in (("lost", 3), ("busy", 2), ("reset", 2), ("cut", 1), ("slow", 1)):
        road.fail(fault, times, path="log-batch")
    sink, telemetry = begin(run), TelemetryFile(trainer.storage, run, 0)
    for images in range(600):
        telemetry.append(point(images))
        time.sleep(0.001)
    telemetry.close()
    until(lambda: len(road.hit) == 11)
    run_id = sink.finish("FINISHED")
    found = the_run(mlflow, run)
    assert (found.info.run_id, found.info.status) == (run_id, "FINISHED")
    assert history(mlflow, run) == once(range(600))
    assert len(history(mlflow, run, "images_seen")) == 600
    assert [one.path for one in mlflow.list_artifacts(run_id, "grids")] == ["grids/000000000100.png"]
    assert sum("does not reach MLflow now" in note for note in heard.notes) >= 1


def test_what_a_killed_driver_did_not_send_the_next_start_sends(road, mlflow, begin, trainer, run_name):
    run, telemetry = (name := run_name()), TelemetryFile(trainer.storage, name, 0)
    first = begin(run)
    for images in range(100):
        telemetry.append(point(images))
    assert telemetry.flush(5)
    until(lambda: road.count("POST", "log-batch") >= 2)
    road.fail("lost", 1, path="log-batch")  # taken, and nobody knows
    road.fail("reset", -1)
    for images in range(100, 300):
        telemetry.append(point(images))
    telemetry.close()
    until(lambda: len(road.hit) > 3)
    first.abandon("KILLED")
    road.forget()
    again = TelemetryFile(trainer.storage, run, 149)  # resumed from before
    for images in range(150, 400):
        again.append({**point(images), "time": images / 10 + 7})
    again.append({"images": 200, "time": 50.0, "metrics": {"frechet": 3.0}})  # measured late
    again.close()
    begin(run).finish("FINISHED")
    assert history(mlflow, run) == once(range(400))
    assert history(mlflow, run, "frechet") == [(200, 3.0)]


def test_a_cut_while_it_follows_sends_nothing_twice(road, mlflow, begin, trainer, run_name):
    run = run_name()
    telemetry, sink = TelemetryFile(trainer.storage, run, 0), begin(run)
    for images in range(100):
        telemetry.append(point(images))
    telemetry.close()
    until(lambda: road.count("POST", "log-batch") >= 2)
    again = TelemetryFile(trainer.storage, run, 49)  # the group of workers was started again
    for images in range(50, 120):
        again.append({**point(images), "time": 1.0})
    again.close()
    sink.finish("FINISHED")
    assert sorted(history(mlflow, run)) == once(range(120))


def test_dead_at_the_end_is_one_line_and_the_same_command_sends_the_rest(road, mlflow, begin, trainer, run_name):
    run = run_name()
    telemetry = TelemetryFile(trainer.storage, run, 0)
    sink = begin(run)
    telemetry.append(point(1))
    until(lambda: road.count("POST", "log-batch") >= 2)
    road.fail("reset", -1)
    telemetry.append(point(2))
    telemetry.close()
    with pytest.raises(Unavailable) as told:
        sink.finish("FINISHED")
    assert f"run {run} is trained and safe in" in str(told.value) and "\n" not in str(told.value)
    assert the_run(mlflow, run).info.status == "RUNNING"
    road.forget()
    begin(run).finish("FINISHED")
    assert history(mlflow, run) == once(range(1, 3))
    assert the_run(mlflow, run).info.status == "FINISHED"


def test_a_run_that_another_goes_on_with_is_let_go_of_without_a_word(road, mlflow, begin, trainer, run_name):
    run = run_name()
    lost = begin(run)
    until(lambda: mlflow.search_runs(["1"], f"tags.`ganline.run` = '{run}'"))
    lost.let_go()
    telemetry = TelemetryFile(trainer.storage, run, 0)
    telemetry.append(point(1))
    telemetry.close()
    time.sleep(0.3)  # several of its periods
    assert the_run(mlflow, run).info.status == "RUNNING" and the_run(mlflow, run).data.metrics == {}
    begin(run).finish("FINISHED")
    assert the_run(mlflow, run).info.status == "FINISHED"
    lost.let_go()
    assert the_run(mlflow, run).info.status == "FINISHED"


def test_one_that_hangs_holds_up_no_end_and_no_point_comes_twice_when_it_goes_on(
    server, road, mlflow, begin, trainer, run_name, monkeypatch
):
    monkeypatch.setattr(module, "_FINISH_SECONDS", 0.5)
    monkeypatch.setattr(module, "_ABANDON_SECONDS", 0.3)
    ended, stopped = run_name(), run_name()
    sinks = {run: begin(run) for run in (ended, stopped)}
    files = {run: TelemetryFile(trainer.storage, run, 0) for run in sinks}
    for run, telemetry in files.items():
        telemetry.append(point(1))
        until(lambda run=run: sinks[run]._link is not None and "loss" in sinks[run]._link.sent)
    server.hang()
    try:
        for telemetry in files.values():
            telemetry.append(point(2))
            telemetry.close()
        time.sleep(0.2)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="took nothing for"):
            sinks[ended].finish("FINISHED")
        sinks[stopped].abandon("KILLED")
        assert time.monotonic() - begun < within(3)
    finally:
        server.go_on()
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{road.address}")
    monkeypatch.setattr(module, "_PERIOD_SECONDS", 0.05)
    for run in sinks:
        begin(run).finish("FINISHED")
        assert history(mlflow, run) == once(range(1, 3))


def test_as_long_as_points_are_taken_the_end_waits(road, mlflow, begin, trainer, run_name, monkeypatch):
    monkeypatch.setattr(module, "_FINISH_SECONDS", 3.0)
    run, points = run_name(), 200
    telemetry = TelemetryFile(trainer.storage, run, 0)
    for images in range(points):
        telemetry.append(point(images))
    telemetry.close()
    road.fail("slow", -1, path="log-batch")
    begun = time.monotonic()
    begin(run).finish("FINISHED")
    assert time.monotonic() - begun > 3.0
    assert history(mlflow, run) == once(range(points))
