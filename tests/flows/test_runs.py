"""`ganline runs` and `--fork`, on a run that has been released. Nothing is trained here."""

import shutil

import pytest

from flows import preflight
from pipeline.errors import UserError
from pipeline.recipe import load_config
from pipeline.storage import Storage

DEAD = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def run(finished) -> str:
    """The recipe's own run, whatever other tests have made beside it."""
    return next(one["id"] for one in finished("runs", "--json").json["runs"] if one["id"].startswith("tiny-"))


def _files(finished) -> list:
    return sorted(path for path in finished.root.rglob("*") if not {"logs", "cache"} & set(path.parts))


def test_runs_tells_of_each_run_and_show_what_keeps_each_checkpoint(finished, run):
    before = _files(finished)
    (told,) = (one for one in finished("runs", "list", "--json").json["runs"] if one["id"] == run)
    assert told["state"] == "finished" and told["images"] >= told["images_wanted"] >= 12000
    assert told["dataset"]["name"] == "tiny" and told["bytes"] > 10_000 and "loss_d" in told["metrics"]
    shown = finished("runs", "show", run, "--json").json
    assert shown["run"] == told and len(shown["checkpoints"]) == told["checkpoints"] >= 3
    newest = shown["checkpoints"][0]
    assert newest["images"] == told["images"] and newest["reasons"][0] == "last 3"
    assert any(reason.startswith("released as tiny version ") for reason in newest["reasons"])
    lines = finished("runs").out.splitlines()
    assert any(run in line and "finished" in line and f"{told['images']:,}" in line for line in lines)
    unanswered = finished("runs", "show", run, **DEAD)
    assert unanswered.code == 0 and "does not answer" in unanswered.err and "a release may name it" in unanswered.out
    assert _files(finished) == before


def test_prune_says_and_with_yes_does_and_a_released_run_stays(finished, run):
    shutil.copytree(finished.root / "runs" / run, finished.root / "runs/unreleased")
    before = _files(finished)
    pruning = ["runs", "prune", run, "unreleased", "--unreleased", "--json"]
    told = finished(*pruning).json
    assert [(one["run"], one["whole"]) for one in told["runs"]] == [(run, False), ("unreleased", True)]
    assert told["runs"][0]["kept"].startswith("released as tiny version ") and not told["done"]
    unanswered = finished(*pruning, "--yes", **DEAD)
    assert (unanswered.code, unanswered.out) == (2, "") and "does not answer" in unanswered.err
    assert len(unanswered.err.splitlines()) == 1 and _files(finished) == before
    done = finished(*pruning, "--yes").json
    assert done == {**told, "done": True}
    left = {path for path in before if "unreleased" not in path.parts}
    assert set(_files(finished)) == left - {
        path for path in before for gone in told["runs"][0]["checkpoints"] if gone in str(path)
    }
    assert finished("runs", "prune", run).out.startswith("would delete 0 runs and 0 checkpoints, 0 half-written ones")


def test_a_dry_run_tells_what_a_fork_begins_with_and_mistakes_are_one_line(finished, run):
    recipe = ["run", "tiny.yaml", "--dry-run", "--set", "training.images=90000"]
    newest = finished("runs", "show", run, "--json").json["checkpoints"][0]
    named = f"{run}@{newest['step']}"
    told = finished(*recipe, "--fork", named, "--set", "training.learning_rate=1e-4", "--json").json
    origin = told["forked_from"]
    assert (origin["run"], origin["step"], origin["images"]) == (run, newest["step"], newest["images"])
    assert told["reused"]["run"] is None and told["reused"]["from_image"] == newest["images"]
    wider = finished(*recipe, "--fork", named, "--set", "model.width=16")
    assert wider.code == 2 and len(wider.err.splitlines()) == 1 and "width is 8 there and 16 here" in wider.err


@pytest.mark.parametrize(
    ("step", "sets", "said"),
    [
        ("@7", [], "run {run} has "),
        ("", ["training.images=100"], "raise training.images"),
        ("", ["training.init=tiny"], "leave one of them out"),
        ("", ["model.conditional=false"], "classes is 10 there and 0 here"),
    ],
)
def test_what_can_not_be_forked_is_refused_before_any_work(finished, run, step, sets, said):
    config = load_config(str(finished.folder / "tiny.yaml"), ["training.images=90000", *sets])
    with pytest.raises(UserError, match=said.format(run=run)):
        preflight.check_fork(config, Storage(str(finished.root)), f"{run}{step}")


def test_a_dataset_whose_runs_and_releases_are_there_stays(finished, run):
    before = _files(finished)
    (listed,) = (one for one in finished("datasets", "--json").json["datasets"] if one["name"] == "tiny")
    assert listed["images"] == 5000 and listed["versions"] == 1 and listed["bytes"] > 1_000_000
    assert f"tiny: 5,000 images in {listed['latest'][:12]}, the latest of 1" in finished("datasets").out
    pruned = finished("datasets", "prune", "tiny", "--days", 0, "--yes", "--json").json
    assert pruned["done"] and pruned["bytes"] == 0 and pruned["datasets"][0]["kept"] == {listed["latest"]: "the latest"}
    assert f"tiny@{listed['latest'][:12]} stays: the latest" in finished("datasets", "prune").out
    unanswered = finished("datasets", "prune", "--yes", **DEAD)
    assert (unanswered.code, unanswered.out) == (2, "") and "does not answer" in unanswered.err
    assert finished("datasets", "prune", "cats").code == 2
    assert _files(finished) == before
