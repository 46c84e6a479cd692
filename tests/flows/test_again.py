"""The same command again: nothing is done twice, and a run is begun anew, made longer or refused as one asks."""

import json
import signal
import time
import urllib.request
from pathlib import Path

from hurry import within
from mlflow.tracking import MlflowClient

from pipeline.storage import sha256

ALONE = ("--set", "cluster.workers=0")  # starts no group of workers, and is the same run


def test_a_finished_run_is_not_trained_again_and_its_release_is_found(finished):
    # Ray's sockets lie in the temporary folder, and their names may have 107 letters: no Ray can start here.
    no_ray = finished.folder / ("x" * 100)
    no_ray.mkdir()
    longer = finished("train", "tiny.yaml", "--set", "training.images=13000", TMPDIR=str(no_ray))
    assert longer.code == 1 and "AF_UNIX" in longer.err
    result = finished("run", "tiny.yaml", "--json", TMPDIR=str(no_ray))
    again = result.json
    assert again["dataset"]["shards_written"] == 0 and again["dataset"]["shards_reused"] > 0
    assert again["run"]["reused"] and again["run"]["resumed_from"] == again["run"]["images"]
    assert again["release"]["version"] == 1 and again["release"]["reused"]
    assert "train:" not in result.err and "evaluate:" not in result.err
    runs = MlflowClient(f"sqlite:///{finished.root}/mlflow.db").search_runs(["1"])
    assert [run.info.run_id for run in runs] == [again["run"]["mlflow_run_id"]]
    found = finished("lookup", "tiny@champion", "--json").json
    assert (found["model"], found["version"], found["alias"]) == ("tiny", 1, "champion")
    assert found["dataset"] == again["dataset"]["digest"]
    assert found["run_id"] == again["run"]["mlflow_run_id"]
    assert "loss_d" in found["metrics"]


def test_the_page_on_a_release_lies_in_storage_and_in_mlflow_and_prefect_knows_of_it(finished, prefect_url):
    client = MlflowClient(f"sqlite:///{finished.root}/mlflow.db")
    version = client.get_model_version("tiny", "1")
    path = Path(client.download_artifacts(version.run_id, version.tags["ganline.page"]))
    (page,) = finished.root.glob("evaluations/pages/*/index.html")
    assert path.read_bytes() == page.read_bytes() and b"tiny version 1" in page.read_bytes()
    logged = client.list_artifacts(version.run_id, version.tags["ganline.page"].rpartition("/")[0])
    beside = {one.path.rpartition("/")[2] for one in logged}
    assert beside == {one.name for one in page.parent.iterdir()} > {"samples.png", "losses.png", "neighbours.png"}
    request = urllib.request.Request(f"{prefect_url}/artifacts/filter", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        ours = [one for one in json.load(response) if str(page) in one["data"]]  # other tests' runs are there too
    (artifact,) = ours
    assert artifact["key"] == "evaluation-tiny" and "| frechet | " in artifact["data"] and artifact["task_run_id"]


def test_an_evaluation_can_do_without_the_cluster_and_take_fewer_images(finished):
    away = {"RAY_ADDRESS": "127.0.0.1:1"}
    fewer = finished("evaluate", "tiny@1", "--set", "evaluation.images=100", "--json", **away)
    assert "features are computed on this machine alone: RAY_ADDRESS 127.0.0.1:1" in fewer.err
    assert all("100 generated" in name for name in fewer.json["figures"] if name.startswith("frechet"))


def test_restart_begins_anew_and_images_can_grow(finished):
    before = finished.checkpoints()[-1]
    weights = (before / "ema.safetensors").read_bytes()
    anew = finished("train", "tiny.yaml", "--restart", "--json").json
    assert anew["run"]["resumed_from"] == 0 and not anew["run"]["reused"]
    after = finished.checkpoints()[-1]
    assert after != before and (after / "ema.safetensors").read_bytes() == weights
    more = finished("train", "tiny.yaml", *ALONE, "--set", "training.images=17000", "--json").json
    assert more["run"]["id"] == anew["run"]["id"]
    assert more["run"]["resumed_from"] == anew["run"]["images"] < more["run"]["images"]
    assert after in finished.checkpoints()  # what a run ended with stays when it goes on
    runs = MlflowClient(f"sqlite:///{finished.root}/mlflow.db").search_runs(["1"])
    assert len(runs) == 2  # the one before the restart keeps its figures


def test_each_command_on_a_model_does_what_it_says(finished):
    """On the release of the first test and the longer run of the one above, looked at in the registry."""
    client = MlflowClient(f"sqlite:///{finished.root}/mlflow.db")

    def aliases() -> dict[str, int]:
        return {alias: int(version) for alias, version in client.get_registered_model("tiny").aliases.items()}

    measured = finished("evaluate", "tiny@1", "--json").json
    logged = client.get_run(client.get_model_version("tiny", "1").run_id).data.metrics
    assert measured["problem"] is None and {"frechet", "floor_recall"} <= set(measured["metrics"])
    assert measured["metrics"].items() <= logged.items()

    checkpoint = finished.checkpoints()[-1]
    released = finished("release", checkpoint.parent.parent.name, "--json").json
    assert released["metrics"]["frechet"] != measured["metrics"]["frechet"]
    assert (released["release"]["version"], released["release"]["promoted"]) == (2, False)
    tags = client.get_model_version("tiny", "2").tags
    assert tags["ganline.weights.sha256"] == sha256((checkpoint / "ema.safetensors").read_bytes())
    assert tags["ganline.reason"] == released["release"]["reason"]
    assert "minimum_images" in tags["ganline.reason"] and tags["ganline.promoted"] == "false"
    assert aliases() == {"champion": 1}

    assert finished("promote", "tiny", "--version", 2, "--json").json["version"] == 2
    assert aliases() == {"champion": 2, "previous": 1}
    assert client.get_model_version("tiny", "2").tags["ganline.reason"].startswith("promoted by hand over version 1")
    for now, other in ((1, 2), (2, 1)):
        began = time.monotonic()
        assert finished("rollback", "tiny", "--json").json["version"] == now
        assert time.monotonic() - began < within(10)
        assert aliases() == {"champion": now, "previous": other}
    found = finished("lookup", "tiny", "--json").json
    assert (found["version"], found["run_id"]) == (2, client.get_model_version("tiny", "2").run_id)
    assert released["metrics"].items() <= found["metrics"].items()


def test_a_second_driver_is_refused_and_leaves_the_first_alone(finished):
    first = finished.start_until(
        lambda: any("runs/other-" in str(c) for c in finished.checkpoints()),
        "run", "tiny.yaml", *ALONE, "--set", "name=other",
    )  # fmt: skip
    first.send_signal(signal.SIGSTOP)  # or it might be done before the second has begun
    second = finished("train", "tiny.yaml", *ALONE, "--set", "name=other")
    first.send_signal(signal.SIGCONT)
    assert second.code == 2 and "is being trained already" in second.err
    _, err = first.communicate(timeout=within(30))
    assert first.returncode == 0, err
    found = finished("lookup", "other", "--json").json
    client = MlflowClient(f"sqlite:///{finished.root}/mlflow.db")
    assert client.get_run(found["run_id"]).info.status == "FINISHED"
    assert finished("train", "tiny.yaml", "--set", "data.resolution=32").code == 2


def test_a_run_that_diverges_ends_in_one_line_and_is_not_released(finished):
    wild = ("tiny.yaml", *ALONE, "--set", "name=wild", "--set", "training.learning_rate=1e30")
    result = finished("run", *wild, "--json")
    assert result.code == 1 and result.out == ""
    assert "diverged" in result.err.splitlines()[-1] and "training.learning_rate" in result.err.splitlines()[-1]
    assert finished("lookup", "wild").code == 2
