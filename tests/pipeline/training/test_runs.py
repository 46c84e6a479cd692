"""What a storage root has of runs, and what of it a pruning takes."""

import fcntl
import math
from collections.abc import Sequence

import pytest
import torch

from pipeline.errors import Unavailable, UserError
from pipeline.results import remember
from pipeline.storage import Storage
from pipeline.training.checkpoint import (
    CheckpointRef,
    Keeping,
    keep_checkpoint,
    list_checkpoints,
    newest_checkpoint,
    save_checkpoint,
)
from pipeline.training.pruning import Pruning, Releases, prune
from pipeline.training.run import describe, only_writer, tell_failure
from pipeline.training.runs import datasets_of_runs, finished_runs, list_runs, look_at_checkpoints, run_names
from pipeline.training.state import Snapshot
from pipeline.training.telemetry import telemetry_path

HERE = "the sha256 of this store's URI"
NONE = Releases(HERE, {})


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def _run(
    storage: Storage, run: str, steps: Sequence[int], in_a_row: Sequence[int] = (), **metrics: Sequence[float]
) -> list[CheckpointRef]:
    """With checkpoints of a few bytes; it wants 40 images, 8 a step."""
    health = {step: {"health": {"in_a_row": skipped}} for step, skipped in zip(steps, in_a_row, strict=False)}
    training = {"images": 40, "batch": 8, "keep_last": 2, "keep_best": 1}
    describe(storage, run, {"config": {"training": training}, "dataset": {"name": "d", "digest": "0" * 64}})
    return [
        save_checkpoint(
            storage, run, Snapshot(step, {"ema.safetensors": {"w": torch.full((2,), step)}}, health.get(step, {})), 8,
            metrics={name: values[at] for name, values in metrics.items()}, keeping=Keeping(last=99),
        )
        for at, step in enumerate(steps)
    ]  # fmt: skip


def _finish(storage: Storage, checkpoint: CheckpointRef, tracking: str = HERE) -> None:
    """As `ganline train` does at the end."""
    keep_checkpoint(storage, checkpoint.path)
    inputs = {"run": checkpoint.run, "steps": checkpoint.step, "tracking": tracking}
    remember(storage, "train", inputs, {"run": checkpoint.run, "checkpoint": vars(checkpoint)})


def _prune(storage: Storage, run: str, releases: Releases = NONE, really: bool = True, **how) -> Pruning:
    return prune(storage, run, finished_runs(storage), lambda: releases, really=really, **how)


def _steps(storage: Storage, run: str) -> list[int]:
    return [one.step for one in list_checkpoints(storage, run)]


def _nobody_answers() -> Releases:
    raise Unavailable("MLFLOW_TRACKING_URI does not answer")


def _files(storage: Storage) -> list:
    return sorted(path for path in storage.local_path().rglob("*") if path.name != "lock")


def test_each_run_says_how_far_it_is_and_in_what_state(storage):
    _finish(storage, _run(storage, "a-finished", [3, 5])[-1])
    _run(storage, "b-stopped", [3])
    _run(storage, "c-failed", [])
    tell_failure(storage, "c-failed", "run c-failed diverged")
    _run(storage, "d-running", [3])
    points = [b'{"images": 24, "time": 1, "metrics": {"loss_g": 2, "frechet": 9}}']
    points += [b'{"images": 32, "time": 2, "metrics": {"loss_g": 1}}']
    storage.write(telemetry_path("d-running"), b"\n".join([*points, b""]))
    # It was given more images after its end.
    longer = _run(storage, "e-longer", [5, 7])
    _finish(storage, longer[0])
    before = _files(storage)
    with only_writer(storage, "d-running"):
        found = list_runs(storage)
    assert [(run.id, run.state, run.images, run.wanted, run.checkpoints, run.reason) for run in found] == [
        ("a-finished", "finished", 40, 40, 2, None),
        ("b-stopped", "stopped", 24, 40, 1, None),
        ("c-failed", "failed", 0, 40, 0, "run c-failed diverged"),
        ("d-running", "running", 32, 40, 1, None),
        ("e-longer", "stopped", 56, 40, 2, None),
    ]
    assert found[3].figures == {"loss_g": 1, "frechet": 9}
    for run in found:
        files = [path for path in storage.local_path(f"runs/{run.id}").rglob("*") if path.is_file()]
        assert run.bytes == sum(path.stat().st_size for path in files) > 0
    assert _files(storage) == before and not storage.exists("runs/a-finished/lock")  # to look leaves no trace


def test_a_pruning_says_what_goes_and_then_it_goes(storage):
    saved = _run(storage, "r", [1, 2, 3, 4, 5], frechet=[9, 3, 9, 4, math.nan])
    storage.write("runs/r/checkpoints/000000006-0001-dead/ema.safetensors", b"half")
    before = _files(storage)
    told = _prune(storage, "r", really=False)
    assert told.checkpoints == [saved[2].path, saved[0].path]  # the last two and the best one stay
    assert told.unfinished == ["runs/r/checkpoints/000000006-0001-dead"]
    sizes = [path.stat().st_size for path in before if path.is_file() and str(path.parent).endswith(
        tuple(path.rpartition("/")[2] for path in [*told.checkpoints, *told.unfinished]))]  # fmt: skip
    assert told.bytes == sum(sizes) and len(sizes) == 7
    assert _files(storage) == before
    assert _prune(storage, "r") == told
    assert _steps(storage, "r") == [5, 4, 2]
    assert len(list(storage.list("runs/r/checkpoints"))) == 3
    assert _prune(storage, "r", last=1, best=0).checkpoints == [saved[3].path, saved[1].path]
    assert _steps(storage, "r") == [5]


def test_what_a_release_names_stays(storage):
    """A run that ended twice, with more images the second time: both ends are marked, one is released."""
    saved = _run(storage, "r", [1, 2, 3, 4])
    for end in saved[:2]:
        _finish(storage, end)
    released = Releases(HERE, {saved[0].path: "faces version 1"})
    assert _prune(storage, "r", released, last=1).checkpoints == [saved[2].path, saved[1].path]
    assert _steps(storage, "r") == [4, 1]
    # As long as another registry may name it, too.
    _finish(storage, saved[0], "the store that MLFLOW_TRACKING_URI named then")
    left = _prune(storage, "r", last=1)
    assert not left.checkpoints and "another MLFLOW_TRACKING_URI" in left.kept
    assert _steps(storage, "r") == [4, 1]


@pytest.mark.parametrize(("marked", "unreleased", "asked"), [(0, True, True), (1, False, True), (0, False, False)])
def test_nothing_is_deleted_where_the_registry_has_to_be_asked_and_does_not_answer(storage, marked, unreleased, asked):
    saved = _run(storage, "r", [1, 2, 3, 4])
    for checkpoint in saved[:marked]:
        keep_checkpoint(storage, checkpoint.path)
    before = _files(storage)
    if asked:
        with pytest.raises(Unavailable):
            prune(storage, "r", [], _nobody_answers, unreleased=unreleased, really=True)
        assert _files(storage) == before
    else:
        prune(storage, "r", [], _nobody_answers, unreleased=unreleased, really=True)
        assert _steps(storage, "r") == [4, 3]


def test_the_newest_checkpoint_that_verifies_stays(storage):
    saved = _run(storage, "r", [1, 2, 3, 4])
    for later in saved[2:]:
        storage.delete(f"{later.path}/ema.safetensors")
    assert _prune(storage, "r", last=1).checkpoints == [saved[2].path, saved[0].path]
    assert newest_checkpoint(storage, "r") == saved[1]


def test_where_no_checkpoint_verifies_none_goes(storage):
    """They may be mended from a copy."""
    for checkpoint in _run(storage, "r", [1, 2, 3, 4]):
        storage.delete(f"{checkpoint.path}/ema.safetensors")
    assert not _prune(storage, "r", last=1).checkpoints


def test_what_a_run_would_go_back_to_stays(storage):
    """It skipped the last steps before its newest checkpoints, and may have to."""
    saved = _run(storage, "r", [1, 2, 3, 4], in_a_row=[0, 0, 3, 5])
    assert _prune(storage, "r", last=1).checkpoints == [saved[2].path, saved[0].path]
    assert newest_checkpoint(storage, "r", healthy=True) == saved[1]


def test_a_run_that_is_being_trained_is_left_alone(storage):
    _run(storage, "r", [1, 2, 3, 4])
    with only_writer(storage, "r"):
        for really in (False, True):
            left = _prune(storage, "r", really=really, unreleased=True)
            assert not left.whole and not left.checkpoints and "being trained" in left.kept
    assert _steps(storage, "r") == [4, 3, 2, 1]
    assert _prune(storage, "r").checkpoints


def test_whole_runs_go_unless_a_release_names_them(storage):
    _finish(storage, _run(storage, "gone", [4, 5])[-1])
    _run(storage, "stopped", [4])
    released = _run(storage, "released", [1, 2, 3, 4, 5])
    _finish(storage, _run(storage, "elsewhere", [5])[-1], "the store that MLFLOW_TRACKING_URI named then")
    there = Releases(HERE, {released[-1].path: "faces version 7"})
    pruned = {run: _prune(storage, run, there, unreleased=True) for run in run_names(storage)}
    assert {run for run, one in pruned.items() if one.whole} == {"gone", "stopped"}
    assert "faces version 7" in pruned["released"].kept and "MLFLOW_TRACKING_URI" in pruned["elsewhere"].kept
    assert run_names(storage) == ["elsewhere", "released"]
    assert _steps(storage, "released") == [5, 4]  # pruned as ever
    assert not storage.local_path("runs/gone").exists()


def test_in_an_object_store_it_is_the_same(s3_root):
    """There the lock is a lease, with files of its own in the run's folder."""
    storage = Storage(s3_root)
    for run in ("stays", "goes"):
        _run(storage, run, [1, 2, 3])
    with only_writer(storage, "stays"):
        assert [(run.id, run.state, run.checkpoints) for run in list_runs(storage)] == [
            ("goes", "stopped", 3), ("stays", "running", 3),
        ]  # fmt: skip
        assert "being trained" in _prune(storage, "stays", really=False).kept
        assert _prune(storage, "goes", unreleased=True).whole
    assert run_names(storage) == ["stays"]
    assert [run.state for run in list_runs(storage)] == ["stopped"]
    _prune(storage, "stays")
    assert _steps(storage, "stays") == [3, 2]


def test_a_checkpoint_says_what_keeps_it(storage):
    saved = _run(storage, "r", [1, 2, 3, 4, 5], frechet=[1, 3, 9, 4, 5])
    _finish(storage, saved[1])
    kept = {one.step: list(one.reasons) for one in look_at_checkpoints(storage, "r", finished_runs(storage))}
    assert kept == {
        5: ["last 2"], 4: ["last 2"], 3: [], 2: ["a finished run ended with it"], 1: ["best 1 by frechet"],
    }  # fmt: skip


def test_who_opened_the_lock_before_the_run_was_deleted_is_its_one_writer_afterwards(storage, monkeypatch):
    """Its lock goes with the run, and a lock on a file that is gone keeps nobody out."""
    _run(storage, "r", [1])
    deletions = iter([lambda: storage.delete_folder("runs/r")])
    flock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        next(deletions, lambda: None)()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with only_writer(storage, "r"), pytest.raises(UserError, match="being trained"), only_writer(storage, "r"):
        pass


def test_which_datasets_the_runs_need(storage):
    for run in ("a", "b"):
        _run(storage, run, [1])
    describe(storage, "c", {"dataset": {"name": "d", "digest": "1" * 64}})
    assert datasets_of_runs(storage) == {"0" * 64: "of run a, b", "1" * 64: "of run c"}
    storage.write("runs/a/run.json", b"{")
    with pytest.raises(UserError, match=r"runs/a/run\.json is damaged"):
        datasets_of_runs(storage)
