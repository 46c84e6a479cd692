"""The promise of the whole: stopped in any way, the same command goes on and ends with the same bits."""

import json
import os
import signal

from mlflow.tracking import MlflowClient

RECIPE = """
name: tiny
data: {source: mnist5k}
model: {width: 8}
training: {images: 12000, batch: 64, checkpoint_every: 1500, evaluate_every: 6000, log_every: 1000}
"""


def test_ctrl_c_then_kill_9_end_with_the_same_weights_as_a_run_left_alone(ganline, shared_ganline):
    for command in (ganline, shared_ganline):
        (command.folder / "tiny.yaml").write_text(RECIPE)
    alone = shared_ganline("run", "tiny.yaml", "--json").json
    assert alone["run"]["resumed_from"] == 0
    assert shared_ganline.left_running() == []

    # Ctrl-C in a terminal reaches every process of the group at once.
    process = ganline.start_until(lambda: len(ganline.checkpoints()) >= 1, "run", "tiny.yaml")
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    stopped_at = json.loads((ganline.checkpoints()[-1] / "COMPLETE").read_text())["images"]
    assert 0 < stopped_at < 12000
    assert f"stopped at image {stopped_at:,}" in said and "continues" in said
    assert ganline.left_running() == []

    before = len(list(ganline.root.glob("runs/*/grids/*")))
    process = ganline.start_until(
        lambda: any(json.loads((c / "COMPLETE").read_text())["images"] > stopped_at for c in ganline.checkpoints()),
        "run", "tiny.yaml",
    )  # fmt: skip
    process.kill()
    process.communicate()
    assert ganline.left_running() == []  # not even after SIGKILL
    killed_at = json.loads((ganline.checkpoints()[-1] / "COMPLETE").read_text())["images"]
    assert stopped_at < killed_at < 12000 and before <= 2

    result = ganline("run", "tiny.yaml", "--json")
    resumed = result.json
    assert resumed["run"]["resumed_from"] == killed_at
    assert f"continues from image {killed_at:,}" in result.err
    assert resumed["run"]["images"] == alone["run"]["images"]

    for name in ("generator", "discriminator", "ema", "optimizer_g", "optimizer_d"):
        ours, theirs = (
            (command.checkpoints()[-1] / f"{name}.safetensors").read_bytes() for command in (ganline, shared_ganline)
        )
        assert ours == theirs, name
    assert _figures(ganline) == _figures(shared_ganline)


def _figures(command) -> list:
    """Telemetry without what depends on the clock."""
    (path,) = command.root.glob("runs/*/telemetry.jsonl")
    clock = {"images_per_second", "data_wait_share"}
    points = [json.loads(line) for line in path.read_text().splitlines()]
    return [(p["images"], {k: v for k, v in p["metrics"].items() if k not in clock}) for p in points]


def test_a_finished_run_is_not_trained_again_and_its_release_is_found(shared_ganline):
    result = shared_ganline("run", "tiny.yaml", "--json")
    again = result.json
    assert again["dataset"]["shards_written"] == 0 and again["dataset"]["shards_reused"] > 0
    assert again["run"]["reused"] and again["run"]["resumed_from"] == again["run"]["images"]
    assert again["release"]["version"] == 1 and again["release"]["reused"]
    assert "train:" not in result.err and "evaluate:" not in result.err
    runs = MlflowClient(f"sqlite:///{shared_ganline.root}/mlflow.db").search_runs(["1"])
    assert [run.info.run_id for run in runs] == [again["run"]["mlflow_run_id"]]
    found = shared_ganline("lookup", "tiny@champion", "--json").json
    assert (found["model"], found["version"], found["alias"]) == ("tiny", 1, "champion")
    assert found["dataset"] == again["dataset"]["digest"]
    assert found["run_id"] == again["run"]["mlflow_run_id"]
    assert "loss_d" in found["metrics"]


def test_restart_begins_anew_and_images_can_grow(shared_ganline):
    before = shared_ganline.checkpoints()[-1]
    weights = (before / "ema.safetensors").read_bytes()
    anew = shared_ganline("train", "tiny.yaml", "--restart", "--json").json
    assert anew["run"]["resumed_from"] == 0 and not anew["run"]["reused"]
    after = shared_ganline.checkpoints()[-1]
    assert after != before and (after / "ema.safetensors").read_bytes() == weights
    more = shared_ganline("train", "tiny.yaml", "--set", "training.images=14000", "--json").json
    assert more["run"]["id"] == anew["run"]["id"]
    assert more["run"]["resumed_from"] == anew["run"]["images"] < more["run"]["images"]
    runs = MlflowClient(f"sqlite:///{shared_ganline.root}/mlflow.db").search_runs(["1"])
    assert len(runs) == 2  # the one before the restart keeps its figures


def test_a_second_driver_is_refused_and_leaves_the_first_alone(shared_ganline):
    first = shared_ganline.start_until(
        lambda: any("runs/other-" in str(c) for c in shared_ganline.checkpoints()),
        "run", "tiny.yaml", "--set", "name=other",
    )  # fmt: skip
    second = shared_ganline("train", "tiny.yaml", "--set", "name=other")
    assert second.code == 2 and "is being trained already" in second.err
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    found = shared_ganline("lookup", "other", "--json").json
    client = MlflowClient(f"sqlite:///{shared_ganline.root}/mlflow.db")
    assert client.get_run(found["run_id"]).info.status == "FINISHED"
    assert shared_ganline("train", "tiny.yaml", "--set", "data.resolution=32").code == 2


def test_a_run_that_diverges_ends_in_one_line_and_is_not_released(shared_ganline):
    wild = ("tiny.yaml", "--set", "name=wild", "--set", "training.learning_rate=1e30")
    result = shared_ganline("run", *wild, "--json")
    assert result.code == 1 and result.out == ""
    assert "diverged" in result.err.splitlines()[-1] and "training.learning_rate" in result.err.splitlines()[-1]
    assert shared_ganline("lookup", "wild").code == 2


def test_sigterm_between_stages_ends_everything_that_was_started(embedded):
    (embedded.folder / "tiny.yaml").write_text(RECIPE)
    process = embedded.start_until(lambda: any(embedded.root.glob("datasets/*/shards/*.tar")), "run", "tiny.yaml")
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert embedded.left_running() == []
    assert "continues" in said.splitlines()[-1]
