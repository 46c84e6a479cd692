"""What `ganline deploy` gives to Prefect, run by one of its workers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import UUID, uuid4

import httpx
import pytest
from ganline_command import Ganline
from hurry import ALONE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Abort
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Crashed, Running

from flows.automations import MOST_CRASHES, check_crashed
from flows.deployment import make_deployment, portable
from flows.on_worker import check_registry
from pipeline.config import Config
from pipeline.errors import RunFailed, UserError
from pipeline.storage import Storage

_LIMIT_SECONDS = 240


@pytest.fixture(scope="module")
def scheduling_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with its services, as one that people start: the session's has none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder, url = tmp_path_factory.mktemp("scheduling"), f"http://127.0.0.1:{port}/api"
    env = {**os.environ, "PREFECT_HOME": str(folder), "PREFECT_API_URL": url, "DO_NOT_TRACK": "1"}
    env |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _LIMIT_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
                break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(_LIMIT_SECONDS)


@pytest.fixture
def ganline(tmp_path: Path, scheduling_url: str) -> Iterator[Ganline]:
    command = Ganline(tmp_path, PREFECT_API_URL=scheduling_url)
    yield command
    command.end_all()


@pytest.fixture
def prefect(scheduling_url: str) -> Iterator[SyncPrefectClient]:
    with SyncPrefectClient(scheduling_url) as client:
        yield client


@pytest.fixture
def worker(ganline: Ganline) -> Iterator[subprocess.Popen]:
    with _worker(ganline) as worker:
        yield worker


@contextmanager
def _worker(ganline: Ganline) -> Iterator[subprocess.Popen]:
    """Of the pool that the tests deploy to, in an environment of its own."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "tests", "--type", "process"]
    with open(ganline.folder / "worker.log", "w") as log:
        process = subprocess.Popen(
            command, cwd="/", env={**ganline.env, "PREFECT_WORKER_QUERY_SECONDS": "1"}, stdout=log, stderr=log
        )
    yield process
    process.send_signal(signal.SIGTERM)
    process.wait(_LIMIT_SECONDS)


def _until(prefect: SyncPrefectClient, run: UUID, is_so: Callable[[FlowRun], bool]) -> FlowRun:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not is_so(found := prefect.read_flow_run(run)):
        assert time.monotonic() < deadline, found.state
        time.sleep(0.2)
    return found


def test_releases_that_would_go_with_the_run_are_refused_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for place in (tmp_path.parent / "root", tmp_path / "root"):  # the latter where the pool has a working directory
        check_registry(Storage(str(place)))
    with pytest.raises(UserError, match=r"working directory of this one run; set MLFLOW_TRACKING_URI"):
        check_registry(Storage("s3://bucket/root?region=us-east-1"))
    for uri, is_kept in (("http://mlflow:5000", True), ("sqlite:///here.db", False), ("postgresql://db/mlflow", False)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with nullcontext() if is_kept else pytest.raises(UserError):
            check_registry(Storage("s3://bucket/root?region=us-east-1"))


@pytest.mark.skipif(not ALONE, reason="three minutes, for `make chaos`")
def test_a_run_whose_machine_is_gone_with_its_worker_has_crashed_and_another_worker_goes_on(ganline, prefect):
    arguments = ["--set", "name=gone", "--storage", "root", "--pool", "tests", "--json"]
    made = ganline("deploy", ganline.tiny(workers=0), *arguments).json
    run = prefect.create_flow_run_from_deployment(UUID(made["id"])).id
    with _worker(ganline):
        _until(prefect, run, lambda _: bool(ganline.checkpoints()))
        ganline.end_all()
    last = json.loads((ganline.checkpoints()[-1] / "COMPLETE").read_text())
    gone = _until(prefect, run, lambda run: run.state.is_crashed())
    assert gone.state.message == "it has said nothing for too long"
    with _worker(ganline):
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not (others := {one.id for one in _of(prefect, UUID(made["id"]))} - {run}):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        (other,) = others
        done = _until(prefect, other, lambda run: run.state.is_final())
    assert done.state.is_completed(), done.state
    assert f"continues from image {last['images']:,}" in (ganline.folder / "worker.log").read_text()


@pytest.fixture
def begin(ganline, prefect, scheduling_url, monkeypatch) -> Callable[[UUID | None], UUID]:
    """Begins a run in place of another, or of none, and says which; raises what its check raises."""
    name = f"crashing-{uuid4().hex}"  # a deployment of its own: the server is the module's
    arguments = ["--set", f"name={name}", "--storage", "s3://b/root", "--pool", "tests", "--json"]
    made = ganline("deploy", ganline.tiny(), *arguments).json
    values = prefect.read_deployment(UUID(made["id"])).parameters

    def begin(instead_of: UUID | None) -> UUID:
        parameters = {**values, "instead_of": str(instead_of)} if instead_of else values
        run = prefect.create_flow_run_from_deployment(UUID(made["id"]), parameters=parameters).id
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(run))
        prefect.set_flow_run_state(run, Running(), force=True)
        with temporary_settings({PREFECT_API_URL: scheduling_url}):
            check_crashed(str(instead_of) if instead_of else None)
        return run

    return begin


def test_runs_that_crash_again_and_again_are_not_gone_on_with_for_ever(begin, prefect, monkeypatch):
    last = None
    for _ in range(MOST_CRASHES):
        last = begin(last)
        prefect.set_flow_run_state(last, Crashed(), force=True)
    with pytest.raises(RunFailed, match="4 runs in a row have crashed"):
        begin(last)
    begin(None)  # a person's own, or a schedule's
    monkeypatch.setattr("flows.automations._SOON", timedelta(0))
    begin(last)  # those had run for longer


def test_a_cancelled_run_that_was_killed_before_it_had_ended_is_not_gone_on_with(begin, prefect):
    cancelled = begin(None)
    for state in (Cancelling(), Crashed()):
        prefect.set_flow_run_state(cancelled, state, force=True)
    with pytest.raises(Abort, match="was cancelled"):
        begin(cancelled)
    ended = prefect.read_flow_run(UUID(os.environ["PREFECT__RUNTIME__FLOW_RUN__ID"])).state
    assert ended.is_cancelled() and "was cancelled" in ended.message


def _of(prefect: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    return prefect.read_flow_runs(deployment_filter=of_it, sort=FlowRunSort.START_TIME_DESC, limit=10)


def _scheduled(prefect: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    return [run for run in _of(prefect, deployment) if run.state and run.state.is_scheduled()]


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict]]]:
    """Its address, and what it was told."""
    told: list[dict] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook?token=hunter2", told
        server.shutdown()
        thread.join()


@pytest.mark.skipif(not ALONE, reason="two minutes, in which 30 s are enough for a checkpoint, for `make chaos`")
def test_a_worker_runs_it_one_at_a_time_and_what_was_killed_or_cancelled_is_gone_on_with(
    ganline, prefect, worker, webhook
):
    address, told = webhook
    arguments = ["--storage", "root", "--pool", "tests", "--set", "training.images=20000", "--json"]
    made = ganline("deploy", ganline.tiny(workers=0), *arguments, GANLINE_WEBHOOK=address).json
    assert made["deployment"] == "release/tiny"
    first = prefect.create_flow_run_from_deployment(UUID(made["id"])).id
    _until(prefect, first, lambda run: run.state.is_running())
    second = prefect.create_flow_run_from_deployment(UUID(made["id"])).id
    _until(prefect, second, lambda run: run.state.name == "AwaitingConcurrencySlot")
    _until(prefect, first, lambda run: bool(ganline.checkpoints()))
    for process in set(ganline.alive()) - {worker.pid}:  # the run's, with what it has started
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    newest = ganline.checkpoints()[-1]
    killed = _until(prefect, first, lambda run: run.state.is_crashed())
    _until(prefect, first, lambda _: ganline.checkpoints()[-1] > newest)
    # The second, or the one in place of the killed: both wait for their turn, and the worker asks when it likes.
    (going_on,) = (run.id for run in _of(prefect, UUID(made["id"])) if run.state.is_running())
    prefect.set_flow_run_state(going_on, Cancelling())
    stopped = _until(prefect, going_on, lambda run: run.state.is_final())
    last = json.loads((ganline.checkpoints()[-1] / "COMPLETE").read_text())
    assert stopped.state.name == "Cancelled" and f"stopped at image {last['images']:,}" in stopped.state.message
    (third,) = {run.id for run in _of(prefect, UUID(made["id"]))} - {first, going_on}
    assert second in (going_on, third)
    done = _until(prefect, third, lambda run: run.state.is_final())
    assert done.state.is_completed(), done.state
    said = (ganline.folder / "worker.log").read_text()
    assert f"continues from image {last['images']:,}" in said
    assert ganline("lookup", "tiny@champion", "--json").json["version"] == 1
    deadline = time.monotonic() + _LIMIT_SECONDS
    while len(told) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    crashed, promoted = told
    assert (crashed["model"], crashed["kind"], crashed["flow_run"]) == ("tiny", "failure", str(first))
    assert f"{killed.name} of tiny: Crashed: " in crashed["text"]
    assert (promoted["kind"], promoted["version"]) == ("promotion", 1)
    assert promoted["text"] == "tiny version 1: there was no champion"


def test_a_worker_keeps_house_and_tells_of_it(ganline, prefect, worker, scheduling_url):
    half = ganline.root / "datasets/pets/versions" / ("a" * 64) / "sources.parquet"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half a version")
    os.utime(half, (0, 0))
    refused = ganline("deploy-housekeeping", "no name", "--storage", "root")
    assert refused.code == 2 and "'no name' is no name of a deployment" in refused.err
    deploy = ["deploy-housekeeping", "--storage", "root", "--pool", "tests", "--cron", "0 6 * * 0", "--json"]
    made = ganline(*deploy).json
    assert (made["deployment"], made["busy"]) == ("housekeeping/ganline", "refuse")
    run = prefect.create_flow_run_from_deployment(UUID(made["id"])).id
    done = _until(prefect, run, lambda run: run.state.is_final())
    assert done.state.is_completed(), done.state
    assert not half.parent.exists()
    of_it = {"artifacts": {"flow_run_id": {"any_": [str(run)]}}}
    told = httpx.post(f"{scheduling_url}/artifacts/filter", json=of_it).raise_for_status().json()
    said = {each["key"]: each["description"] for each in told}
    assert "1 half-written ones" in said["housekeeping-datasets"] and "0 runs" in said["housekeeping-runs"]


def test_done_again_it_replaces_what_there_was(ganline, prefect):
    def deploy(*options: str) -> tuple[UUID, object]:
        arguments = ["--set", "name=nightly", "--storage", "s3://b/root", "--pool", "tests", "--json", *options]
        made = ganline("deploy", ganline.tiny(), *arguments).json
        return UUID(made["id"]), prefect.read_deployment(UUID(made["id"]))

    refused = ganline("deploy", ganline.tiny(), "--storage", "s3://b/root", "--pool", "prefect-own")
    assert refused.code == 2 and "Prefect takes no work pool of the name prefect-own: " in refused.err

    nightly = ("--cron", "0 2 * * *", "--timezone", "Europe/Berlin", "--busy", "refuse")
    first, found = deploy(*nightly)
    (schedule,) = found.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone, schedule.active) == ("0 2 * * *", "Europe/Berlin", True)
    assert found.concurrency_options.collision_strategy.value == "CANCEL_NEW"
    assert found.parameters["storage_uri"] == "s3://b/root"
    form = found.parameter_openapi_schema["properties"]["recipe"]
    assert form["properties"]["training"] == {"$ref": "#/definitions/Training", **form["properties"]["training"]}
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not (waiting := _scheduled(prefect, first)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert waiting  # the server's scheduler has made runs of it
    second, found = deploy()
    assert _scheduled(prefect, first) == []
    assert second == first and found.schedules == [] and found.global_concurrency_limit.limit == 1
    assert found.concurrency_options.collision_strategy.value == "ENQUEUE"


@pytest.mark.parametrize(
    ("change", "how", "says"),
    [
        ({}, {"cron": "99 2 * * *"}, '--cron "99 2 \\* \\* \\*" in UTC: Invalid cron string'),
        ({}, {"timezone": "Mars/Base"}, "in Mars/Base: Invalid timezone"),
        ({}, {"storage": "s3://key:word@b/root"}, "^Prefect would store the credentials"),
        ({"data": {"source": "s3://key:word@b/images"}}, {}, "^Prefect would store the credentials"),
        ({"data": {"source": "/photos", "labels": "labels.json"}}, {}, "^data.labels labels.json means another file"),
    ],
)
def test_what_can_not_be_one_is_told_in_one_line(scheduling_url, monkeypatch, change, how, says):
    monkeypatch.setenv("PREFECT_API_URL", scheduling_url)
    given = {"storage": "s3://b/root", "pool": "tests", "cron": "0 2 * * *", "timezone": "UTC", "busy": "wait", **how}
    with pytest.raises(UserError, match=says) as error:
        make_deployment(Config.model_validate({"name": "tiny", **change}), **given)
    assert "word" not in str(error.value) and "\n" not in str(error.value)


def test_a_webhook_that_is_none_is_told_without_its_secret(scheduling_url, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", scheduling_url)
    monkeypatch.setenv("GANLINE_WEBHOOK", "hunter2")
    with pytest.raises(UserError, match=r"^GANLINE_WEBHOOK is no address") as error:
        make_deployment(Config(name="tiny"), "s3://b/root", "tests", None, "UTC", "wait")
    assert "hunter2" not in str(error.value)


def test_without_a_server_the_remedy_is_told(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(UserError, match=r"^set PREFECT_API_URL to a Prefect server"):
        make_deployment(Config(name="tiny"), "s3://b/root", "tests", None, "UTC", "wait")


def test_a_local_source_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source, seen_by_workers in (("photos", str(tmp_path / "photos")), ("mnist5k", "mnist5k")):
        recipe = portable(Config.model_validate({"name": "tiny", "data": {"source": source}, "storage": "here"}))
        assert recipe["data"]["source"] == seen_by_workers and "storage" not in recipe
    module = {"features": "fid.pt", "features_sha256": "a" * 64, "features_pixels": 299}
    recipe = portable(Config.model_validate({"name": "tiny", "evaluation": module}))
    assert recipe["evaluation"] == {**module, "features": str(tmp_path / "fid.pt")}
