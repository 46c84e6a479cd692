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
from pipeline.training.checkpoint import (
    KEPT,
    BadCheckpoint,
    delete_unfinished,
    keep_checkpoint,
    load_checkpoint,
    newest_checkpoint,
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
    checkpoint = save_checkpoint(storage, "r", saved, batch=8)
    assert (checkpoint.step, checkpoint.images) == (3, 24)
    load_checkpoint(storage, checkpoint, loaded)
    assert loaded.to_files() == saved.to_files()
    assert loaded.to_json() == saved.to_json()
    moments = [name for name in saved.to_files() if name.startswith("optimizer")]
    assert len(moments) == (3 if spec.bigan else 2)
    assert all(len(saved.to_files()[name]) > len(_state(0, spec).to_files()[name]) for name in moments)
    assert not any(p.read_bytes().startswith(pickle.dumps(None)[:2]) for p in Path(storage.uri).rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["generator.safetensors", "optimizer_d.safetensors", "state.json", "COMPLETE"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(storage, name, damage, caplog):
    good = save_checkpoint(storage, "r", _state(1), batch=8)
    bad = save_checkpoint(storage, "r", _state(2), batch=8)
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
    own = save_checkpoint(storage, "b", _state(1), batch=8)
    foreign = save_checkpoint(storage, "a", _state(2), batch=8)
    shutil.copytree(storage.local_path(foreign.path), storage.local_path(foreign.path.replace("runs/a/", "runs/b/")))
    assert newest_checkpoint(storage, "b") == own


def test_where_no_checkpoint_verifies_the_run_is_not_begun_anew_behind_ones_back(storage):
    checkpoint = save_checkpoint(storage, "r", _state(1), batch=8)
    storage.delete(f"{checkpoint.path}/ema.safetensors")
    with pytest.raises(UserError, match="restore runs/r/checkpoints"):
        newest_checkpoint(storage, "r")
    assert newest_checkpoint(storage, "another") is None


def test_pruning_never_takes_the_checkpoint_just_written_for_later_ones_that_do_not_verify(storage):
    for step in (100, 200, 300):
        later = save_checkpoint(storage, "r", _at(step), batch=8)
        storage.delete(f"{later.path}/ema.safetensors")
    saved = save_checkpoint(storage, "r", _at(50), batch=8)
    assert newest_checkpoint(storage, "r") == saved
    assert len(list(Path(storage.uri).rglob("COMPLETE"))) == 1


def test_half_written_checkpoints_are_cleared_away(storage):
    checkpoint = save_checkpoint(storage, "r", _state(1), batch=8)
    storage.write("runs/r/checkpoints/000000002-dead/ema.safetensors", b"half")
    delete_unfinished(storage, "r")
    assert [entry.path for entry in storage.list("runs/r/checkpoints")] == [checkpoint.path]


def test_a_checkpoint_that_a_full_disk_stops_leaves_nothing(storage, largest_file):
    saved = save_checkpoint(storage, "r", _state(1), batch=8)
    size = storage.size(f"{saved.path}/generator.safetensors")
    with largest_file(size), pytest.raises(OSError, match="too large"):  # the optimizers' states are larger
        save_checkpoint(storage, "r", _state(2), batch=8)
    assert [entry.path for entry in storage.list("runs/r/checkpoints")] == [saved.path]
    assert newest_checkpoint(storage, "r") == saved


def test_what_was_named_is_what_is_read(storage):
    checkpoint = save_checkpoint(storage, "r", _state(1), batch=8)
    assert set(read_files(storage, checkpoint)) == {
        "generator.safetensors", "discriminator.safetensors", "ema.safetensors",
        "optimizer_g.safetensors", "optimizer_d.safetensors", "state.json",
    }  # fmt: skip
    marker = storage.local_path(f"{checkpoint.path}/COMPLETE")
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "step": 9}))
    with pytest.raises(BadCheckpoint, match="no longer"):
        read_files(storage, checkpoint)


def test_old_checkpoints_go_and_the_newest_stay(storage):
    for step in range(1, KEPT + 3):
        save_checkpoint(storage, "r", _state(step), batch=8)
    steps = [json.loads(m.read_text())["step"] for m in sorted(Path(storage.uri).rglob("COMPLETE"))]
    assert steps == list(range(3, KEPT + 3))


def test_what_a_finished_run_ended_with_is_never_pruned(storage):
    """The run goes on when it is given more images; its release still names that checkpoint."""
    finished = save_checkpoint(storage, "r", _state(1), batch=8)
    keep_checkpoint(storage, finished)
    for step in range(2, KEPT + 4):
        save_checkpoint(storage, "r", _state(step), batch=8)
    assert verify_checkpoint(storage, "r", finished.path) == finished
    assert len(list(Path(storage.uri).rglob("COMPLETE"))) == KEPT + 1


def test_marker_is_written_last(storage, monkeypatch):
    order = []
    write = Storage.write
    monkeypatch.setattr(Storage, "write", lambda self, path, data: (order.append(path), write(self, path, data)))
    save_checkpoint(storage, "r", _state(1), batch=8)
    assert order[-1].endswith("/COMPLETE") and len(order) == 7


def test_weights_of_another_network_are_refused(storage):
    checkpoint = save_checkpoint(storage, "r", _state(1), batch=8)
    other = fresh_state(NetworkSpec("dcgan", 16, 1, width=8, z_dim=4), Training(), torch.device("cpu"))
    with pytest.raises(ValueError, match="shape"):
        load_checkpoint(storage, checkpoint, other)
