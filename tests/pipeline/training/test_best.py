"""The best checkpoint of a run, which is not always the last."""

import logging

import pytest
import torch

from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.storage import Storage
from pipeline.training.best import best_checkpoint
from pipeline.training.checkpoint import CheckpointRef, Keeping, save_checkpoint
from pipeline.training.state import fresh_state

SPEC = NetworkSpec("dcgan", 16, 1, width=4, z_dim=4)


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def save(storage: Storage, step: int, **metrics: float) -> CheckpointRef:
    state = fresh_state(SPEC, Training(), torch.device("cpu"))
    state.step = step
    return save_checkpoint(storage, "r", state.snapshot(), batch=8, metrics=metrics, keeping=Keeping(last=9))


def test_the_lowest_distance_wins_and_of_equals_the_newest(storage):
    assert best_checkpoint(storage, "r") is None
    save(storage, 1, kernel=0.1)
    assert best_checkpoint(storage, "r") is None
    refs = [save(storage, step, frechet=value) for step, value in ((2, 5.0), (3, 3.0), (4, 3.0), (5, 4.0))]
    save(storage, 6)
    save(storage, 7, frechet=float("nan"))
    assert best_checkpoint(storage, "r") == refs[2]


def test_a_damaged_one_is_passed_over_for_the_next_best(storage, heard, caplog):
    refs = [save(storage, step, frechet=value) for step, value in ((2, 5.0), (3, 3.0))]
    storage.local_path(f"{refs[1].path}/ema.safetensors").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert best_checkpoint(storage, "r") == refs[0]
    assert refs[1].path in heard.notes[0] and refs[1].path in caplog.text
    storage.local_path(f"{refs[0].path}/ema.safetensors").write_bytes(b"x")
    assert best_checkpoint(storage, "r") is None
