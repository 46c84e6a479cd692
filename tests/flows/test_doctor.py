"""The doctor sees what is wrong: each ailment is a real one, made here."""

import errno
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hurry import within

from flows import doctor, services
from flows.doctor import Check, check_line, check_values, diagnose
from pipeline.storage import Storage
from pipeline.training.run import only_writer

NAMES = ["python", "packages", "cpu", "gpu", "memory", "shared memory", "sockets", "storage", "disk", "runs"]
NAMES += ["mlflow", "prefect", "ray"]
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def no_services(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "PREFECT_", "RAY_", "GANLINE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def look(tmp_path):
    """One check by name, of a storage root that is there unless another is given."""

    def check(name: str, root: str | None = None) -> Check:
        return next(check for check in diagnose(root or str(tmp_path)) if check.name == name)

    return check


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Bound but not listening, so that nobody else can take it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def stalling_port() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def server() -> Iterator:
    """An HTTP server that answers as told, and remembers what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        answer = (200, "application/json", b"{}")
        asked: list = []  # noqa: RUF012

        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.asked.append((self.command, self.path, self.headers.get("Authorization")))
            status, kind, body = self.answer
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *arguments): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        http.handler, http.at = Handler, f"127.0.0.1:{http.server_port}"
        Handler.asked = []
        yield http
        http.shutdown()
        thread.join()


def test_here_everything_is_well_and_embedded(tmp_path):
    checks = diagnose(str(tmp_path))
    assert [check.name for check in checks] == NAMES
    machine = ("gpu", "memory", "shared memory", "disk")  # where the tests run may be a small one
    assert [check for check in checks if not check.ok and check.name not in machine] == []
    assert [check.detail.split(":")[0] for check in checks[-3:]] == ["embedded"] * 3
    assert check_values(checks)["ok"] is all(check.ok for check in checks)
    assert check_values(checks)["checks"][0]["name"] == "python"
    assert all("\n" not in check_line(check) for check in checks)


def test_it_imports_nothing_heavy(tmp_path):
    code = "import sys; from flows.doctor import diagnose; diagnose(sys.argv[1]); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    heavy = {"ray", "mlflow", "prefect"} | (set() if any(Path("/dev").glob("nvidia[0-9]*")) else {"torch"})
    assert not heavy & set(done.stdout.split())


def test_it_leaves_no_trace(tmp_path):
    (tmp_path / "root").mkdir()
    before = (tmp_path / "root").stat().st_mtime_ns
    diagnose(str(tmp_path / "root"))
    diagnose(str(tmp_path / "other" / "root"))
    assert list(tmp_path.iterdir()) == [tmp_path / "root"] and not list((tmp_path / "root").iterdir())
    assert (tmp_path / "root").stat().st_mtime_ns == before


def test_a_root_below_a_file_can_not_be_written(look, tmp_path):
    (tmp_path / "file").write_text("")
    check = look("storage", str(tmp_path / "file" / "root"))
    assert not check.ok and str(tmp_path / "file") in check.detail and "GANLINE_STORAGE" in check.remedy


def test_a_root_that_the_system_refuses(look):
    refused = "/proc/sys" if os.geteuid() == 0 else "/"  # root may write everywhere else
    check = look("storage", refused)
    assert not check.ok and refused in check.detail


def test_a_storage_that_pyarrow_does_not_know_shows_no_secret(tmp_path):
    checks = diagnose(f"nothing://me:{SECRET}@there/x")
    assert {check.name for check in checks if not check.ok} == {"storage", "disk", "runs"}
    assert SECRET not in repr(checks) and "nothing://***@there/x" in repr(checks)


def test_an_object_store_that_does_not_answer(closed_port, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    begun = time.monotonic()
    uri = f"s3://key:{SECRET}@bucket/x?endpoint_override=127.0.0.1:{closed_port}&scheme=http"
    checks = {check.name: check for check in diagnose(uri)}
    assert not checks["storage"].ok and checks["mlflow"].ok
    assert SECRET not in repr(checks)
    assert time.monotonic() - begun < doctor.LIMIT_SECONDS + 2


@pytest.mark.parametrize("name", ["disk", "shared memory"])
def test_little_room(look, monkeypatch, name):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10 << 30, 0, 400 << 20))
    check = look(name)
    assert not check.ok and "0.39 of 10.0" in check.detail.replace("0.4 ", "0.39 ") and check.remedy


def test_a_run_that_another_process_trains_is_named_and_no_fault(look, tmp_path):
    assert look("runs").detail == "no other command is training here"
    with only_writer(Storage(str(tmp_path)), "mnist-abc"):
        check = look("runs")
        assert check.ok and check.detail == "being trained by another command: mnist-abc"
    assert look("runs").detail == "no other command is training here"
    with only_writer(Storage(str(tmp_path)), "mnist-abc"):  # the doctor holds nothing
        pass


def test_a_package_that_is_missing_or_too_old(look, monkeypatch):
    version = importlib.metadata.version

    def other(name: str) -> str:
        if name == "mlxtend":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.0" if name == "torch" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)
    check = look("packages")
    assert not check.ok and "torch 2.0 is not >=" in check.detail and "mlxtend is missing" in check.detail


def test_what_an_extra_asks_for_is_looked_at_too(look, monkeypatch):
    requires = importlib.metadata.requires
    monkeypatch.setattr(
        importlib.metadata, "requires",
        lambda name: ['nowhere-to-be-found>=1; extra == "train"'] if name == "ray" else requires(name),
    )  # fmt: skip
    assert "nowhere-to-be-found is missing" in look("packages").detail


def test_another_python(look, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 8, 1, "final", 0))
    check = look("python")
    assert not check.ok and check.detail == "3.8.1, but Ganline needs >=3.11"


def test_loopback_that_is_forbidden(look, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket, "create_server", refuse)
    check = look("sockets")
    assert not check.ok and "Operation not permitted" in check.detail


SERVICES = [
    ("mlflow", "MLFLOW_TRACKING_URI", "http://{}"),
    ("mlflow", "MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:" + SECRET + "@{}/mlflow"),
    ("prefect", "PREFECT_API_URL", "http://me:" + SECRET + "@{}/api"),
    ("ray", "RAY_ADDRESS", "{}"),
    ("ray", "RAY_ADDRESS", "ray://{}"),
]


@pytest.mark.parametrize(("name", "variable", "form"), SERVICES)
def test_a_service_that_does_not_answer(look, monkeypatch, closed_port, name, variable, form):
    monkeypatch.setenv(variable, form.format(f"127.0.0.1:{closed_port}"))
    check = look(name)
    assert not check.ok and f"127.0.0.1:{closed_port}" in check.detail and "Connection refused" in check.detail
    assert variable in check.detail and f"unset {variable}" in check.remedy
    assert SECRET not in check_line(check)


@pytest.mark.parametrize(("name", "variable", "form"), SERVICES)
@pytest.mark.parametrize("address", ["127.0.0.1:nan" + SECRET, "[::1" + SECRET])
def test_an_address_that_is_none(look, monkeypatch, name, variable, form, address):
    monkeypatch.setenv(variable, form.format(address))
    check = look(name)
    assert not check.ok and variable in check.detail and "itself failed" not in check.detail


@pytest.mark.parametrize(("name", "variable", "form"), [SERVICES[0], SERVICES[2]])
def test_a_service_that_stalls_is_left_after_a_while(monkeypatch, stalling_port, tmp_path, name, variable, form):
    monkeypatch.setattr(services, "PROBE_SECONDS", 0.3)
    monkeypatch.setenv(variable, form.format(f"127.0.0.1:{stalling_port}"))
    assert [check.name for check in diagnose(str(tmp_path)) if not check.ok] == [name]


def test_a_check_that_hangs_is_given_up_and_one_that_fails_tells_no_secret(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "LIMIT_SECONDS", 0.5)
    ended = threading.Event()
    monkeypatch.setattr(doctor, "_memory", ended.wait)

    def fail():
        raise RuntimeError(SECRET)

    monkeypatch.setattr(doctor, "_cpu", fail)
    begun = time.monotonic()
    checks = {check.name: check for check in diagnose(str(tmp_path))}
    ended.set()
    assert time.monotonic() - begun < within(3)
    assert not checks["memory"].ok and checks["memory"].detail == "no answer within 0.5 s"
    assert not checks["cpu"].ok and checks["cpu"].detail == "the check itself failed: RuntimeError"


def test_an_mlflow_server_is_asked_with_the_credentials(look, monkeypatch, server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@{server.at}/")
    check = look("mlflow")
    assert check.ok and check.detail == f"MLFLOW_TRACKING_URI http://***@{server.at}/ answers"
    asked = ("POST", "/api/2.0/mlflow/experiments/search")
    assert server.handler.asked == [(*asked, "Basic bWU6aHVudGVyMg==")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server.at}")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    assert look("mlflow").ok
    assert server.handler.asked[1] == (*asked, "Bearer abc")


def test_a_prefect_server_is_asked_for_its_health(look, monkeypatch, server):
    monkeypatch.setenv("PREFECT_API_URL", f"http://{server.at}/api")
    assert look("prefect").ok
    assert server.handler.asked == [("GET", "/api/health", None)]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, "application/json", b""), "refuses the credentials"),
        ((404, "text/plain", b""), "HTTP 404"),
        ((500, "text/plain", b""), "HTTP 500"),
        ((200, "text/html", b"<html>"), "does not answer as"),  # a web page: the address lacks /api
    ],
)
@pytest.mark.parametrize(("name", "variable"), [("mlflow", "MLFLOW_TRACKING_URI"), ("prefect", "PREFECT_API_URL")])
def test_a_server_that_is_another_or_refuses(look, monkeypatch, server, answer, said, name, variable):
    server.handler.answer = answer
    monkeypatch.setenv(variable, f"http://{server.at}/")
    check = look(name)
    assert not check.ok and said in check.detail and check.remedy


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_a_ray_that_takes_connections(look, monkeypatch, stalling_port, form):
    monkeypatch.setenv("RAY_ADDRESS", form.format(f"127.0.0.1:{stalling_port}"))
    assert look("ray").ok


def test_a_ray_dashboard_is_no_cluster_address(look, monkeypatch, server):
    monkeypatch.setenv("RAY_ADDRESS", f"http://{server.at}")
    check = look("ray")
    assert not check.ok and "ray://HOST:PORT" in check.remedy


@pytest.mark.parametrize(("form", "ok"), [("sqlite:///{}/new/m.db", True), ("sqlite:////proc/sys/m.db", False)])
def test_a_sqlite_store(look, monkeypatch, tmp_path, form, ok):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", form.format(tmp_path))
    assert look("mlflow").ok is ok
    assert not list(tmp_path.iterdir())
