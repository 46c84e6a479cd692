"""`ganline serve` as a whole: Ray Serve, a real MLflow server, and clients of many kinds."""

import asyncio
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import httpx
import pytest
from ganline_command import Ganline
from hurry import within
from mlflow_server import MlflowServer
from pictures_of import pixels, same, version_of
from releases import SPEC, Releases

from pipeline.registry.lookup import load
from pipeline.storage import Storage

TOKEN = {"Authorization": "Bearer s3cret"}
CLIENTS, REQUESTS = 32, 2000


@dataclass
class Service:
    command: Ganline
    mlflow: MlflowServer
    releases: Releases
    process: subprocess.Popen
    said: dict[str, Any]
    seconds: float

    def post(self, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.said['address']}/v1/images", json=body, headers=TOKEN, timeout=within(60))

    def get(self, path: str) -> dict[str, Any]:
        return httpx.get(f"{self.said['address']}{path}", headers=TOKEN).raise_for_status().json()

    def metrics(self) -> str:
        return httpx.get(f"{self.said['address']}/metrics", headers=TOKEN).raise_for_status().text

    def waiting(self) -> float:
        """Images that are not begun."""
        (line,) = [line for line in self.metrics().splitlines() if line.startswith("ganline_waiting_images{")]
        return float(line.split()[-1])


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    """Version 1 is champion, version 2 is there too."""
    folder = tmp_path_factory.mktemp("service")
    mlflow = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    mlflow.start()
    mlflow.ready()
    command = Ganline(folder, MLFLOW_TRACKING_URI=mlflow.uri, GANLINE_TOKEN="s3cret")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow.uri)
        releases = Releases(Storage(str(command.root)))
        releases.promote(releases.release(0))
        releases.release(1)
        begun = time.monotonic()
        process = command.start("serve", "dots@champion", "--port", _free_port(), "--json")
        assert process.stdout
        line = process.stdout.readline()
        assert line, process.communicate()
        service = Service(command, mlflow, releases, process, json.loads(line), 0.0)
        assert service.post().status_code == 200
        service.seconds = time.monotonic() - begun
        yield service
    command.end_all()
    mlflow.kill()


def test_it_says_where_it_is_and_wants_its_token(service):
    assert service.said["model"] == "dots" and service.said["version"] == 1
    assert httpx.post(f"{service.said['address']}/v1/images", json={}).status_code == 401
    assert httpx.get(f"{service.said['address']}/healthz").json() == {"status": "ok"}


def test_no_request_of_two_thousand_fails_while_a_version_is_promoted(service):
    async def load_test() -> list[tuple[int, int, int, bytes]]:
        answers: list[tuple[int, int, int, bytes]] = []
        seeds = itertools.count()
        deadline = time.monotonic() + 90

        def is_enough() -> bool:
            """A busy machine may be long about promoting."""
            return len(answers) >= REQUESTS and (answers[-1][2] == 2 or time.monotonic() > deadline)

        async with aiohttp.ClientSession(service.said["address"], headers=TOKEN) as client:

            async def visitor() -> None:
                while not is_enough():
                    seed = next(seeds)
                    async with client.post("/v1/images", json={"seed": seed}) as answer:
                        version = int(answer.headers.get("X-Ganline-Version", 0))
                        answers.append((seed, answer.status, version, await answer.read()))
                    if len(answers) == REQUESTS // 4:
                        promoting.append(asyncio.create_task(asyncio.to_thread(service.releases.promote, 2)))

            promoting: list[asyncio.Task] = []
            await asyncio.gather(*(visitor() for _ in range(CLIENTS)))
            await asyncio.gather(*promoting)
        return answers

    answers = asyncio.run(load_test())
    assert len(answers) >= REQUESTS
    assert {status for _, status, _, _ in answers} == {200}
    assert {version for _, _, version, _ in answers} == {1, 2}
    generators = {version: load(f"dots@{version}", service.releases.storage) for version in (1, 2)}
    for seed, _, version, png in random.Random(0).sample(answers, 30):
        assert same(pixels(png), generators[version].sample(1, seed)[0])


def test_a_rollback_is_seen_within_five_seconds_of_the_command(service):
    if service.get("/v1/model")["version"] != 2:
        service.releases.promote(2)
        _wait(lambda: service.get("/v1/model")["version"] == 2, 10)
    assert service.command("rollback", "dots").code == 0
    ended = time.monotonic()
    _wait(lambda: version_of(service.post()) == 1, 10)
    assert time.monotonic() - ended < within(5)


def test_it_goes_on_when_mlflow_is_killed_and_follows_again_when_it_is_back(service):
    before = version_of(service.post())
    service.mlflow.kill()
    _wait(lambda: service.get("/healthz")["registry"] == "away", 30)
    answer = service.post(seed=3)
    assert answer.status_code == 200 and version_of(answer) == before
    assert service.get("/v1/versions")["registry"] == "away"
    service.mlflow.start()
    service.mlflow.ready()
    _wait(lambda: service.get("/healthz")["registry"] == "answers", 30)


def test_a_replica_that_is_killed_comes_back_and_answers(service):
    (replica,) = [pid for pid, line in service.command.alive().items() if line.startswith("ray::ServeReplica")]
    os.kill(replica, signal.SIGKILL)
    _wait(lambda: replica not in service.command.alive() and service.post().status_code == 200, 60)
    assert len(pixels(service.post().content)) == SPEC.resolution


@pytest.fixture(scope="module")
def slow(service) -> int:
    """A version that is served and takes seconds for what one may ask at once."""
    heavy = Releases(service.releases.storage, spec=replace(SPEC, resolution=64, width=32))
    version = heavy.release(9)
    heavy.promote(version)
    _wait(lambda: service.get("/v1/model")["version"] == version, 30)
    return version


def test_a_visitor_who_goes_away_is_counted_as_gone_and_not_as_a_failure(service, slow):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.said['address']}/v1/images", json={"n": 256}, headers=TOKEN, timeout=0.3)
    _wait(lambda: 'path="/v1/images",replica="' in service.metrics() and 'status="499"' in service.metrics(), 10)
    assert 'status="500"' not in service.metrics()


def test_it_ends_cleanly_once_it_has_answered_what_was_under_way_and_leaves_no_process(service, slow):
    with ThreadPoolExecutor(2) as visitors:  # more would be refused where other tests are at the same cores
        asked = [visitors.submit(service.post, n=256, seed=seed, format="json") for seed in range(2)]
        _wait(lambda: service.waiting() > 256, 10)
        os.kill(service.process.pid, signal.SIGTERM)
        answers = [each.result() for each in asked]
    for answer in answers:
        assert answer.status_code == 200 and version_of(answer) == slow
        assert len(answer.json()["images"]) == 256
    out, err = service.process.communicate(timeout=within(30))
    assert service.process.returncode == 0, err
    assert out == "" and err.splitlines()[-1] == "stopped by SIGTERM"
    assert service.command.left_running() == []
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{service.said['address']}/healthz", timeout=5)


def test_ctrl_c_answers_what_is_under_way_too(embedded, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    releases = Releases(Storage(str(embedded.root)), spec=replace(SPEC, resolution=64, width=48))
    releases.promote(releases.release(0))
    process = embedded.start("serve", "dots", "--port", _free_port(), "--json")
    assert process.stdout
    address = json.loads(process.stdout.readline())["address"]
    with ThreadPoolExecutor(1) as visitor:
        asked = visitor.submit(
            httpx.post, f"{address}/v1/images", json={"n": 256, "format": "json"}, timeout=within(60)
        )
        time.sleep(0.3)
        assert not asked.done()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its group
        answer = asked.result()
    assert answer.status_code == 200 and len(answer.json()["images"]) == 256
    _, err = process.communicate(timeout=within(30))
    assert process.returncode == 0 and err.splitlines()[-1] == "stopped by Ctrl-C"
    assert embedded.left_running() == []


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["dots@champion"], {}, "no model registry"),
        (["dots@champion", "--port", "0"], {}, "--port"),
        (["dots@champion", "--replicas", "0"], {}, "--replicas"),
        (["dots@champion"], {"GANLINE_TOKEN": " "}, "GANLINE_TOKEN is empty"),
    ],
)
def test_a_mistake_is_one_line(embedded, arguments, env, said):
    done = embedded("serve", *arguments, **env)
    assert done.code == 2 and said in done.err and len(done.err.strip().splitlines()) <= 2


def _wait(for_what, seconds: float) -> None:
    deadline = time.monotonic() + within(seconds)
    while not for_what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
