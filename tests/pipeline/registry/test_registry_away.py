"""A real MLflow server that is killed, hangs, comes back and answers no: what lookup serves meanwhile, and says."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from hurry import within
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    TEMPORARILY_UNAVAILABLE,
)

from pipeline.errors import Unavailable, UserError
from pipeline.registry import Watcher, load, load_found, watch
from pipeline.registry.artifact import ArtifactError
from pipeline.registry.found import Found
from pipeline.registry.lookup import lookup
from pipeline.registry.releases import promote
from pipeline.registry.resolved import forget_found, recall_found, remember_found
from pipeline.registry.server import outages
from pipeline.serving.current import Current
from pipeline.serving.figures import Figures
from pipeline.storage import Storage, cache_root

ROOT = Path(__file__).parents[3]

FOUND = Found("faces", 3, "champion", "run", "d", "c", {}, "file:///x", "w", "s", as_of="2026-11-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def named(here, served, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.server.uri)


@pytest.fixture(scope="module")
def faces(served) -> dict[int, np.ndarray]:
    """Versions 1 and 2, the first the champion; and ten images of each."""
    world = served.world
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", served.server.uri)
        versions = [world.release("faces", 0), world.release("faces", 1)]
        promote(world.client, "faces", versions[0])
        return {version: load(f"faces@{version}", world.storage).sample(10) for version in versions}


def cached(storage: Storage, version: int):
    return cache_root(storage) / "models" / "faces" / str(version) / "generator.safetensors"


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@contextmanager
def answering(address: str, status: int):
    """What stands at a server's address while that is away: a proxy that answers for it."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(status)

        do_GET = do_POST

        def log_message(self, *_): ...

    host, port = address.split(":")
    proxy = HTTPServer((host, int(port)), Answer)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def test_killed_it_is_done_without_and_said_and_back_it_is_asked_again(served, faces, heard):
    world = served.up()
    promote(world.client, "faces", 1)
    generator = load("faces@champion", world.storage)
    assert (generator.found.version, generator.found.stale, heard.notes) == (1, False, [])
    moving = Watcher("faces", world.storage)
    assert moving.look() == generator.found
    assert moving.look() is None and heard.notes == []

    served.down()
    begun = time.monotonic()
    without = load("faces", world.storage)
    assert time.monotonic() - begun < within(5)
    assert without.found == generator.found and without.found.stale
    assert without.found.as_of == generator.found.as_of
    (said,) = heard.notes
    assert said.startswith("faces@champion is version 1, as the registry said at ") and "does not answer" in said
    np.testing.assert_array_equal(without.sample(10), faces[1])
    np.testing.assert_array_equal(load("faces@v2", world.storage).sample(10), faces[2])
    assert lookup("faces@champion", world.storage).stale
    heard.notes.clear()
    assert [moving.look(), moving.look()] == [None, None]
    assert len(heard.notes) == 1 and "is watched on" in heard.notes[0]
    late = Watcher("faces", world.storage)  # of a service that starts meanwhile
    first = late.look()
    assert first == without.found and first.stale
    np.testing.assert_array_equal(load_found(first, world.storage).sample(10), faces[1])
    assert late.look() is None
    with pytest.raises(Unavailable, match="does not answer"):
        load("faces@previous", world.storage)
    for status in (429, 502, 503):
        with answering(served.server.address, status):
            assert load("faces", world.storage).found.stale

    flip(cached(world.storage, 1))
    begun = time.monotonic()
    with pytest.raises(ArtifactError, match=r"^models/faces/1/generator.safetensors is not whole in the cache"):
        load("faces", world.storage)
    assert time.monotonic() - begun < within(5)

    served.up()
    np.testing.assert_array_equal(load("faces", world.storage).sample(10), faces[1])
    assert late.look() is None
    promote(world.client, "faces", 2)
    assert (late.look().version, moving.look().version) == (2, 2)
    back = load("faces", world.storage)
    assert (back.found.version, back.found.stale) == (2, False)
    np.testing.assert_array_equal(back.sample(10), faces[2])


def test_who_looks_again_and_again_asks_for_no_figures_of_what_it_knows(served, faces):
    world = served.up()
    promote(world.client, "faces", 1)
    for version in (1, 2):
        world.client.log_metric(lookup(f"faces@{version}", world.storage).run_id, "loss", version)

    def runs_asked_for() -> int:
        return (served.server.folder / "log").read_text().count("/mlflow/runs/get?")

    watcher, current = Watcher("faces", world.storage), Current("faces", world.storage, Figures("0"))
    found, begun = watcher.look(), runs_asked_for()
    assert found.metrics["loss"] and found.metrics == current.found.metrics
    for _ in range(3):
        assert watcher.look() is None
        current.look()
    assert runs_asked_for() == begun
    promote(world.client, "faces", 2)
    current.look()
    assert watcher.look().metrics["loss"] == current.found.metrics["loss"] == 2


def test_one_that_hangs_costs_a_few_seconds(served, faces, heard):
    world = served.up()
    version = load("faces", world.storage).found.version
    served.server.hang()
    begun = time.monotonic()
    found = load("faces", world.storage).found
    taken = time.monotonic() - begun
    served.server.go_on()
    assert (found.version, found.stale) == (version, True) and taken < within(10)


def test_no_is_an_answer_which_is_kept_too(served, faces, heard):
    world = served.up()
    world.client.set_registered_model_alias("faces", "shown", "2")
    assert load("faces@shown", world.storage).found.version == 2
    watcher = Watcher("faces@shown", world.storage)
    assert watcher.look().version == 2
    world.client.delete_registered_model_alias("faces", "shown")
    assert [watcher.look(), watcher.look()] == [None, None]
    assert len(heard.notes) == 1 and "has no alias shown" in heard.notes[0]
    for look in (Watcher("faces@shown", world.storage).look, lambda: load("faces@shown", world.storage)):
        with pytest.raises(UserError, match="no alias shown") as error:
            look()
        assert not isinstance(error.value, Unavailable)
    assert recall_found(world.storage, "faces", "shown") is None


def test_what_fails_its_sha256_is_not_remembered(served, faces):
    world = served.up()
    version = world.release("tampered", 0)
    promote(world.client, "tampered", version)
    logged = world.client.get_model_version("tampered", str(version)).source.split("/")[-2]
    store = served.server.folder / "artifacts"
    (path,) = store.rglob(f"{logged}/artifacts/artifacts/generator.safetensors")
    flip(path)
    with pytest.raises(ArtifactError, match=f"tampered/{version}/generator.safetensors"):
        load("tampered", world.storage)
    assert recall_found(world.storage, "tampered", "champion") is None


def test_refused_credentials_are_no_outage(served, faces):
    world = served.down()
    for status, said in ((401, "refuses the credentials"), (404, "HTTP 404")):
        with answering(served.server.address, status), pytest.raises(UserError, match=said) as error:
            load("faces@1", world.storage)
        assert not isinstance(error.value, Unavailable)


def test_a_watch_tells_of_each_release_once(world, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    first, second = world.release("watched", 0), world.release("watched", 1)
    promote(world.client, "watched", first)
    releases = watch("watched@champion", world.storage, seconds=0.01)
    assert next(releases).version == first
    threading.Timer(0.2, promote, (world.client, "watched", second)).start()
    assert next(releases).version == second


def test_what_the_registry_said_later_stands(tmp_path):
    storage = Storage(str(tmp_path))
    remember_found(storage, FOUND)
    kept = recall_found(storage, "faces", "champion")
    assert kept == FOUND and kept.stale and kept.as_of == FOUND.as_of
    remember_found(storage, replace(FOUND, version=2, as_of="2026-10-31T00:00:00+00:00"))
    assert recall_found(storage, "faces", "champion").version == 3
    remember_found(storage, replace(FOUND, version=4, as_of="2026-11-01T00:00:01+00:00"))
    assert recall_found(storage, "faces", "champion").version == 4
    assert recall_found(storage, "faces", 4) is None


def test_a_record_from_the_future_is_replaced(tmp_path):
    storage = Storage(str(tmp_path))
    remember_found(storage, replace(FOUND, as_of="2126-11-01T00:00:00+00:00"))
    remember_found(storage, replace(FOUND, version=4))
    assert recall_found(storage, "faces", "champion").version == 4


def test_a_record_is_of_one_server_whatever_the_password(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:old@a")
    remember_found(storage, FOUND)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:new@a")
    assert recall_found(storage, "faces", "champion") == FOUND
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:new@b")
    assert recall_found(storage, "faces", "champion") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b'{"model": "faces"}', json.dumps(asdict(FOUND) | {"as_of": "soon"}).encode(),
     json.dumps(asdict(FOUND) | {"model": "others"}).encode()],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_none(tmp_path, content):
    storage = Storage(str(tmp_path))
    remember_found(storage, FOUND)
    (path,) = tmp_path.rglob("faces@champion.json")
    path.write_bytes(content)
    assert recall_found(storage, "faces", "champion") is None
    remember_found(storage, FOUND)
    assert recall_found(storage, "faces", "champion") == FOUND


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "resolved").write_bytes(b"no folder")
    storage = Storage(str(tmp_path))
    remember_found(storage, FOUND)
    assert recall_found(storage, "faces", "champion") is None
    forget_found(storage, "faces", "champion")


@pytest.mark.parametrize("code", [INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, REQUEST_LIMIT_EXCEEDED])
def test_one_that_dies_between_two_calls_is_away_too(tmp_path, code):
    with pytest.raises(Unavailable), outages(Storage(str(tmp_path))):
        raise MlflowException("no connection", error_code=code)


def test_what_it_answers_is_raised_as_it_is(tmp_path):
    with pytest.raises(MlflowException, match="not yours"), outages(Storage(str(tmp_path))):
        raise MlflowException("not yours", error_code=PERMISSION_DENIED)


def test_importing_it_imports_neither_torch_nor_mlflow():
    seen = "import sys, pipeline.registry; print({'torch', 'mlflow', 'ray'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", seen], text=True, cwd=ROOT).strip() == "set()"
