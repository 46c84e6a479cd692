"""A checkpoint is whole or it does not exist."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.errors import UserError
from pipeline.storage import Storage
from pipeline.training.attempt import Superseded, begin_attempt, living_attempt
from pipeline.training.checkpoint import (
    BadCheckpoint,
    Keeping,
    delete_unfinished,
    keep_checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    newest_step,
    read_files,
    save_checkpoint,
    verify_checkpoint,
)
from pipeline.training.state import TrainState, fresh_state

SPEC = NetworkSpec("dcgan", 16, 1, width=4, z_dim=4)
BIGAN = NetworkSpec("resnet", 16, 1, width=4, z_dim=4, bigan=True)


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def _state(step: int, spec: NetworkSpec = SPEC) -> TrainState:
    state = fresh_state(spec, Training(), torch.device("cpu"))
    for optimizer in (state.optimizer_g, state.optimizer_d):
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            parameter.grad = torch.full_like(parameter, 1.0)
        for _ in range(step):
            optimizer.step()
    state.step = step
    state.meter.add({"loss_g": 0.1 * step})
    return state


def _at(step: int) -> TrainState:
    state = _state(1)
    state.step = step
    return state


@pytest.mark.parametrize("spec", [SPEC, BIGAN], ids=["dcgan", "bigan"])
def test_a_state_comes_back_bit_for_bit(storage, spec):
    saved, loaded = _state(3, spec), _state(1, spec)
    checkpoint = save_checkpoint(storage, "r", saved.snapshot(), batch=8)
    assert (checkpoint.step, checkpoint.images) == (3, 24)
    load_checkpoint(storage, checkpoint, loaded)
    assert loaded.snapshot().to_files() == saved.snapshot().to_files()
    assert loaded.to_json() == saved.to_json()
    files, before = saved.snapshot().to_files(), _state(0, spec).snapshot().to_files()
    moments = [name for name in files if name.startswith("optimizer")]
    assert len(moments) == (3 if spec.bigan else 2)
    assert all(len(files[name]) > len(before[name]) for name in moments)
    assert not any(p.read_bytes().startswith(pickle.dumps(None)[:2]) for p in Path(storage.uri).rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["generator.safetensors", "optimizer_d.safetensors", "state.json", "COMPLETE"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(storage, name, damage, caplog):
    good = save_checkpoint(storage, "r", _state(1).snapshot(), batch=8)
    bad = save_checkpoint(storage, "r", _state(2).snapshot(), batch=8)
    path = storage.local_path(f"{bad.path}/{name}")
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other":  # a mix of two attempts
        path.write_bytes(storage.local_path(f"{good.path}/{name}").read_bytes())
        if name == "COMPLETE":
            path.write_bytes(b"[]")
    else:
        path.write_bytes(data[:-7] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(storage, "r") == good
    if (name, damage) != ("COMPLETE", "gone"):  # then it was never there
        assert bad.path in caplog.text


def test_a_checkpoint_of_another_run_is_refused(storage):
    own = save_checkpoint(storage, "b", _state(1).snapshot(), batch=8)
    foreign = save_checkpoint(storage, "a", _state(2).snapshot(), batch=8)
    shutil.copytree(storage.local_path(foreign.path), storage.local_path(foreign.path.replace("runs/a/", "runs/b/")))
    assert newest_checkpoint(storage, "b") == own


def test_where_no_checkpoint_verifies_the_run_is_not_begun_anew_behind_ones_back(storage):
    checkpoint = save_checkpoint(storage, "r", _state(1).snapshot(), batch=8)
    storage.delete(f"{checkpoint.path}/ema.safetensors")
    with pytest.raises(UserError, match="restore runs/r/checkpoints"):
        newest_checkpoint(storage, "r")
    assert newest_checkpoint(storage, "another") is None


def test_pruning_never_takes_the_checkpoint_just_written_for_later_ones_that_do_not_verify(storage):
    for step in (100, 200, 300):
        later = save_checkpoint(storage, "r", _at(step).snapshot(), batch=8)
        storage.delete(f"{later.path}/ema.safetensors")
    saved = save_checkpoint(storage, "r", _at(50).snapshot(), batch=8)
    assert newest_checkpoint(storage, "r") == saved
    assert len(list(Path(storage.uri).rglob("COMPLETE"))) == 1


def test_half_written_checkpoints_are_cleared_away(storage):
    checkpoint = save_checkpoint(storage, "r", _state(1).snapshot(), batch=8)
    storage.write("runs/r/checkpoints/000000002-dead/ema.safetensors", b"half")
    delete_unfinished(storage, "r")
    assert [entry.path for entry in storage.list("runs/r/checkpoints")] == [checkpoint.path]


def test_a_checkpoint_that_a_full_disk_stops_leaves_nothing(storage, largest_file):
    saved = save_checkpoint(storage, "r", _state(1).snapshot(), batch=8)
    size = storage.size(f"{saved.path}/generator.safetensors")
    with largest_file(size), pytest.raises(OSError, match="too large"):  # the optimizers' states are larger
        save_checkpoint(storage, "r", _state(2).snapshot(), batch=8)
    assert [entry.path for entry in storage.list("runs/r/checkpoints")] == [saved.path]
    assert newest_checkpoint(storage, "r") == saved


def test_what_was_named_is_what_is_read(storage):
    checkpoint = save_checkpoint(storage, "r", _state(1).snapshot(), batch=8)
    assert set(read_files(storage, checkpoint)) == {
        "generator.safetensors", "discriminator.safetensors", "ema.safetensors",
        "optimizer_g.safetensors", "optimizer_d.safetensors", "state.json",
    }  # fmt: skip
    marker = storage.local_path(f"{checkpoint.path}/COMPLETE")
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "step": 9}))
    with pytest.raises(BadCheckpoint, match="no longer"):
        read_files(storage, checkpoint)


def test_old_checkpoints_go_and_the_newest_stay(storage):
    for step in range(1, Keeping().last + 3):
        save_checkpoint(storage, "r", _state(step).snapshot(), batch=8)
    steps = [json.loads(m.read_text())["step"] for m in sorted(Path(storage.uri).rglob("COMPLETE"))]
    assert steps == list(range(3, Keeping().last + 3))


def test_what_a_finished_run_ended_with_is_never_pruned(storage):
    """The run goes on when it is given more images; its release still names that checkpoint."""
    finished = save_checkpoint(storage, "r", _state(1).snapshot(), batch=8)
    keep_checkpoint(storage, finished.path)
    for step in range(2, Keeping().last + 4):
        save_checkpoint(storage, "r", _state(step).snapshot(), batch=8)
    assert verify_checkpoint(storage, "r", finished.path) == finished
    assert len(list(Path(storage.uri).rglob("COMPLETE"))) == Keeping().last + 1


def test_what_others_name_stays_where_a_run_comes_to_the_same_step_again(storage):
    """It went on past its end, and back to it."""
    named = save_checkpoint(storage, "r", _state(2).snapshot(), batch=8, attempt=begin_attempt(storage, "r"))
    keep_checkpoint(storage, named.path)
    again = save_checkpoint(storage, "r", _state(2).snapshot(), batch=8, attempt=begin_attempt(storage, "r"))
    assert verify_checkpoint(storage, "r", named.path) == named and newest_checkpoint(storage, "r") == again


def test_one_that_was_passed_over_takes_no_place_of_those_that_stay(storage):
    """The newest was damaged, the run went on from the one before and came to that step again."""
    sound = save_checkpoint(storage, "r", _state(1).snapshot(), batch=8, attempt=begin_attempt(storage, "r"))
    passed = save_checkpoint(storage, "r", _state(2).snapshot(), batch=8, attempt=begin_attempt(storage, "r"))
    begun = begin_attempt(storage, "r")
    again = save_checkpoint(
        storage, "r", _state(2).snapshot(), batch=8, attempt=begun, keeping=Keeping(last=2)
    )  # fmt: skip
    there = {marker.parent.name for marker in Path(storage.uri).rglob("COMPLETE")}
    assert there == {sound.path.rpartition("/")[2], again.path.rpartition("/")[2]} and passed != again


def test_marker_is_written_last(storage, monkeypatch):
    order = []
    write = Storage.write
    monkeypatch.setattr(Storage, "write", lambda self, path, data: (order.append(path), write(self, path, data)))
    save_checkpoint(storage, "r", _state(1).snapshot(), batch=8)
    assert order[-1].endswith("/COMPLETE") and len(order) == 7


def test_an_attempt_that_was_superseded_publishes_nothing(storage):
    begin_attempt(storage, "r")
    zombie = begin_attempt(storage, "r")
    saved = save_checkpoint(storage, "r", _state(1).snapshot(), batch=8, attempt=zombie)
    living = begin_attempt(storage, "r")
    with pytest.raises(Superseded, match=rf"^attempt {zombie} of run r has been superseded by attempt {living}$"):
        save_checkpoint(storage, "r", _state(2).snapshot(), batch=8, attempt=zombie)
    assert [entry.path for entry in storage.list("runs/r/checkpoints")] == [saved.path]
    own = save_checkpoint(storage, "r", _state(2).snapshot(), batch=8, attempt=living)
    assert newest_checkpoint(storage, "r") == own


@pytest.mark.parametrize("order", [[1, 2], [2, 1]], ids=["before", "after"])
def test_what_an_earlier_attempt_left_at_a_later_step_is_never_preferred(storage, order):
    """Left before the later attempt's, or after it by one that was superseded as soon as it had looked."""
    steps, saved = {1: 300, 2: 200}, {}
    for attempt in order:
        storage.write("runs/r/attempt", str(attempt).encode())  # as it stood when this one looked
        saved[attempt] = save_checkpoint(storage, "r", _at(steps[attempt]).snapshot(), batch=8, attempt=attempt)
    assert newest_checkpoint(storage, "r") == saved[2]
    assert newest_step(storage, "r") == 200
    newest = list_checkpoints(storage, "r")[0]
    assert (newest.path, newest.attempt) == (saved[2].path, 2)


def test_an_attempt_has_a_number_that_no_other_had(storage):
    assert [begin_attempt(storage, "r") for _ in range(3)] == [1, 2, 3]
    assert living_attempt(storage, "r") == 3 and living_attempt(storage, "another") == 0


def test_weights_of_another_network_are_refused(storage):
    checkpoint = save_checkpoint(storage, "r", _state(1).snapshot(), batch=8)
    other = fresh_state(NetworkSpec("dcgan", 16, 1, width=8, z_dim=4), Training(), torch.device("cpu"))
    with pytest.raises(ValueError, match="shape"):
        load_checkpoint(storage, checkpoint, other)
