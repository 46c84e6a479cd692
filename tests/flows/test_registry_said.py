"""Commands that go on without their registry say so."""

import os
import socket

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from releases import Releases

from pipeline.registry.lookup import load
from pipeline.storage import Storage


@pytest.fixture
def away(embedded, monkeypatch) -> None:
    """The registry, after its champion was loaded here."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    releases = Releases(Storage(str(embedded.root)))
    releases.promote(releases.release(0))
    load("dots", releases.storage)
    releases.storage.local_path("mlflow.db").write_bytes(b"no database" * 100)


def test_export_and_serve_say_that_they_go_by_what_the_registry_said_before(embedded, away):
    done = embedded("export", "dots", "--out", "dots.onnx")
    assert done.code == 0 and "dots@champion is version 1, as the registry said at" in done.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = embedded("serve", "dots", "--port", taken.getsockname()[1])
    assert done.code == 2 and "Address already in use" in done.err
    assert "dots@champion is version 1, as the registry said at" in done.err
