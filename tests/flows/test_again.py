"""The same command again: nothing is done twice, and a run is begun anew, made longer or refused as one asks."""

import pytest
from mlflow.tracking import MlflowClient


@pytest.fixture(scope="module")
def finished(shared_ganline):
    """With one run that has been released."""
    shared_ganline("run", shared_ganline.tiny(), "--json").json  # noqa: B018  asserts that it went well
    return shared_ganline


def test_a_finished_run_is_not_trained_again_and_its_release_is_found(finished):
    result = finished("run", "tiny.yaml", "--json")
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


def test_restart_begins_anew_and_images_can_grow(finished):
    before = finished.checkpoints()[-1]
    weights = (before / "ema.safetensors").read_bytes()
    anew = finished("train", "tiny.yaml", "--restart", "--json").json
    assert anew["run"]["resumed_from"] == 0 and not anew["run"]["reused"]
    after = finished.checkpoints()[-1]
    assert after != before and (after / "ema.safetensors").read_bytes() == weights
    more = finished("train", "tiny.yaml", "--set", "training.images=14000", "--json").json
    assert more["run"]["id"] == anew["run"]["id"]
    assert more["run"]["resumed_from"] == anew["run"]["images"] < more["run"]["images"]
    runs = MlflowClient(f"sqlite:///{finished.root}/mlflow.db").search_runs(["1"])
    assert len(runs) == 2  # the one before the restart keeps its figures


def test_a_second_driver_is_refused_and_leaves_the_first_alone(finished):
    first = finished.start_until(
        lambda: any("runs/other-" in str(c) for c in finished.checkpoints()),
        "run", "tiny.yaml", "--set", "name=other",
    )  # fmt: skip
    second = finished("train", "tiny.yaml", "--set", "name=other")
    assert second.code == 2 and "is being trained already" in second.err
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    found = finished("lookup", "other", "--json").json
    client = MlflowClient(f"sqlite:///{finished.root}/mlflow.db")
    assert client.get_run(found["run_id"]).info.status == "FINISHED"
    assert finished("train", "tiny.yaml", "--set", "data.resolution=32").code == 2


def test_a_run_that_diverges_ends_in_one_line_and_is_not_released(finished):
    wild = ("tiny.yaml", "--set", "name=wild", "--set", "training.learning_rate=1e30")
    result = finished("run", *wild, "--json")
    assert result.code == 1 and result.out == ""
    assert "diverged" in result.err.splitlines()[-1] and "training.learning_rate" in result.err.splitlines()[-1]
    assert finished("lookup", "wild").code == 2
