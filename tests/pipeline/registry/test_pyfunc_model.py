"""A release is a model of MLflow's too. What its tools make of it equals what `load` makes."""

import base64
import dataclasses
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from hurry import within
from mlflow.exceptions import MlflowException
from PIL import Image

from ganmodels.saving import to_bytes
from pipeline.config import Config
from pipeline.registry import load
from pipeline.registry.generator import Generator
from pipeline.registry.releases import promote
from pipeline.registry.runs import open_run
from pipeline.registry.server import tracking_uri


@pytest.fixture(scope="module")
def served_world(world, tmp_path_factory):
    """The same store, but its artifacts in another place: MLflow's tools load nothing from under `c#%41`."""
    place = tmp_path_factory.mktemp("plain") / "a b"
    world.client.create_experiment("served", artifact_location=place.as_uri())
    run_id = open_run(world.client, Config.model_validate({"name": "served"}), "served-1", world.dataset)
    served = dataclasses.replace(world, run_id=run_id)
    promote(world.client, "served", served.release("served", 0))
    return served


@pytest.fixture
def served(served_world, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    return served_world


def folder(world, model: str) -> Path:
    uri = world.client.get_model_version_by_alias(model, "champion").source
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(uri).path))


def picture(answer: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer)))


def pixels(answer: str) -> np.ndarray:
    return np.asarray(picture(answer))[..., None]


def test_its_images_are_those_of_load(served):
    model = mlflow.pyfunc.load_model(str(folder(served, "served")))
    generator = load("served", served.storage)
    rows = pd.DataFrame({"seed": [3, 3, 3, 9, 3], "index": [70, 71, 5, 6, 7], "label": [0, 1, 1, 0, 0]})
    images = model.predict(rows)["image"]
    for row, image in zip(rows.itertuples(index=False), images, strict=True):
        np.testing.assert_array_equal(pixels(image), generator.sample(1, row.seed, row.label, first=row.index)[0])
    still = model.predict(rows[["seed", "index"]], params={"truncation": 0.5})["image"]
    np.testing.assert_array_equal(pixels(still[3]), generator.sample(1, 9, truncation=0.5, first=6)[0])
    told = {"Software": "Ganline", "ganline.model": "served", "ganline.seed": "9", "ganline.index": "6"}
    told |= {"ganline.label": "off", "ganline.truncation": "0.5"}
    assert picture(still[3]).text.items() >= told.items()
    assert len(model.predict(rows[:0])) == 0
    for wrong in ({"label": [2]}, {"index": [-1]}):
        row = pd.DataFrame({"seed": [0], "index": [0], "label": [0], **wrong})
        with pytest.raises(MlflowException, match=r"label 2 is not|must not be negative"):
            model.predict(row)


def test_an_encoder_lies_beside_and_its_images_are_those_of_load_too(served):
    version, _ = served.release_with_encoder("both-ways-served")
    promote(served.client, "both-ways-served", version)
    root = folder(served, "both-ways-served")
    assert (root / "artifacts/encoder.safetensors").exists()
    image = mlflow.pyfunc.load_model(str(root)).predict(pd.DataFrame({"seed": [3], "index": [5]}))["image"][0]
    made = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))
    np.testing.assert_array_equal(made, load("both-ways-served", served.storage).sample(1, 3, first=5)[0])


def test_it_is_whole_and_holds_nothing_pickled(served):
    root = folder(served, "served")
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert {file for file in files if not file.startswith("decisions/")} == {
        "MLmodel", "artifacts/generator.safetensors", "artifacts/spec.json", "conda.yaml", "input_example.json",
        "pyfunc_model.py", "python_env.yaml", "requirements.txt", "serving_input_example.json",
    }  # fmt: skip
    requirements = (root / "requirements.txt").read_text().split()
    needed = {"mlflow", "ganline", "torch", "safetensors", "numpy", "pandas", "pillow"}
    assert {line.split("==")[0] for line in requirements} == needed
    assert not any("+" in line for line in requirements)
    model = mlflow.models.Model.load(str(root))
    assert [column.name for column in model.signature.inputs] == ["seed", "index", "label"]
    assert model.signature.outputs.input_names() == ["image"]
    lineage = {"dataset": "d" * 64, "config": "c" * 64, "run": "dots-1", "checkpoint": "step-1", "images": 64}
    assert model.metadata == {"ganline": {"model": "served", **lineage}}
    assert json.loads((root / "artifacts/spec.json").read_text())["lineage"] == model.metadata["ganline"]
    logged = served.client.get_logged_model(model.model_id)
    assert (logged.status, logged.source_run_id) == ("READY", served.run_id)
    outputs = served.client.get_run(served.run_id).outputs.model_outputs
    assert model.model_id in [output.model_id for output in outputs]


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_planted_pickle_is_never_opened_and_planted_code_never_run_by_load(served, tmp_path):
    promote(served.client, "planted", served.release("planted", 1))
    root = folder(served, "planted")
    for name in ("python_model.pkl", "artifacts/generator.pkl", "artifacts/generator.pt", "artifacts/data.pkl"):
        (root / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    mlflow.pyfunc.load_model(str(root)).predict(pd.DataFrame({"seed": [0], "index": [0]}))
    code = (root / "pyfunc_model.py").read_text()
    (root / "pyfunc_model.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n{code}")
    load("planted", served.storage).sample(1)
    assert list(tmp_path.iterdir()) == []
    # The bomb and the code are live: this test could have seen them.
    mlflow.pyfunc.load_model(str(root))
    pickle.loads((root / "python_model.pkl").read_bytes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exploded", "ran"]


def test_weights_that_are_a_pickle_are_refused(served, tmp_path):
    promote(served.client, "swapped", served.release("swapped", 1))
    weights = folder(served, "swapped") / "artifacts" / "generator.safetensors"
    weights.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(ValueError, match="not a safetensors file"):
        mlflow.pyfunc.load_model(str(weights.parent.parent))
    assert list(tmp_path.iterdir()) == []


def test_registering_leaves_mlflow_as_it_was_and_makes_no_image(served, monkeypatch, here, capfd):
    other = "sqlite:////nowhere/else.db"
    monkeypatch.setattr(Generator, "sample", lambda *_, **__: pytest.fail("made an image"))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(other)
    try:
        began = time.monotonic()
        served.release("quiet", 0)
        assert time.monotonic() - began < within(5)
        assert mlflow.get_tracking_uri() == other
        assert mlflow.active_run() is None
    finally:
        mlflow.set_tracking_uri(before)
    assert here() == []
    said = capfd.readouterr()
    assert said.out == ""
    assert "INFO" not in said.err


def test_a_registration_that_fails_leaves_no_ready_model(served, monkeypatch):
    experiment = served.client.get_run(served.run_id).info.experiment_id

    def ready():
        return [one.model_id for one in served.client.search_logged_models([experiment], max_results=1000)
                if one.status == "READY"]  # fmt: skip

    before = ready()
    with monkeypatch.context() as patch:
        patch.setattr(served.client, "log_outputs", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            served.release("failed", 0)
    assert ready() == before
    assert served.client.search_model_versions("name = 'failed'") == []


def test_mlflow_serves_it(served, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking_uri(served.storage),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/served@champion"]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port), "-w", "1"]
    with open(tmp_path / "log", "w+") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )  # fmt: skip
        try:
            asked = {"dataframe_records": [{"seed": 7, "index": i, "label": i % 2} for i in range(2)]}
            answer = _ask(port, {**asked, "params": {"truncation": 0.9}}, server, time.monotonic() + 60)
        except BaseException:
            log.seek(0)
            print(log.read())
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    images = np.stack([pixels(row["image"]) for row in answer["predictions"]])
    assert picture(answer["predictions"][1]["image"]).text == {
        "Software": "Ganline", "ganline.model": "served", "ganline.version": "1", "ganline.seed": "7",
        "ganline.index": "1", "ganline.label": "on", "ganline.truncation": "0.9",
    }  # fmt: skip
    np.testing.assert_array_equal(images, load("served", served.storage).sample(2, 7, truncation=0.9))
    np.testing.assert_array_equal(images, Generator(served.network(0), served.spec).sample(2, 7, truncation=0.9))
    weights = folder(served, "served") / "artifacts" / "generator.safetensors"
    assert weights.read_bytes() == to_bytes(served.network(0).state_dict())


def _ask(port: int, question: dict, server: subprocess.Popen, deadline: float) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    while True:
        assert server.poll() is None
        try:
            with urllib.request.urlopen(request, timeout=max(1.0, deadline - time.monotonic())) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from None
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
