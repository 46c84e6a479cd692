"""The store that a command makes where none is named, and is killed in the middle of making."""

import os
import subprocess
import sys
import time
from itertools import chain

import pytest

from pipeline.errors import UserError
from pipeline.registry.server import client, tracking_uri
from pipeline.storage import Storage

MAKE = """
import sys
from pipeline.registry.server import client
from pipeline.storage import Storage
client(Storage(sys.argv[1]))
"""


def _begin(root) -> subprocess.Popen:
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen([sys.executable, "-c", MAKE, root], env=env)


def _written(root) -> int:
    """Bytes of the database, wherever it is made."""
    return sum(file.stat().st_size for file in chain(root.glob("*/mlflow.db"), root.glob("mlflow.db")))


def test_a_store_whose_maker_is_killed_is_made_by_the_next_two_that_come_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    process = _begin(tmp_path)
    deadline = time.monotonic() + 60
    while not _written(tmp_path):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    time.sleep(0.1)  # tables have been made, and are altered one after another
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()

    assert [one.wait(300) for one in [_begin(tmp_path), _begin(tmp_path)]] == [0, 0]
    store = client(Storage(str(tmp_path)))
    assert store.get_experiment(store.create_experiment("t")).name == "t"


def test_a_folder_that_no_store_can_be_in_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"^no MLflow store can be at .*why\?/mlflow.db, for its question mark"):
        tracking_uri(Storage(str(tmp_path / "why?")))
