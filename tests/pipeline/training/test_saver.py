"""Checkpoints off the training thread: a store that is slow, full or away costs no step."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from hurry import within

from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.storage import Storage
from pipeline.training.attempt import Superseded, begin_attempt
from pipeline.training.checkpoint import list_checkpoints, newest_checkpoint, read_files, save_checkpoint
from pipeline.training.saver import Saver
from pipeline.training.state import Snapshot, TrainState, fresh_state


@pytest.fixture
def state() -> TrainState:
    return fresh_state(NetworkSpec("dcgan", 16, 1, width=4, z_dim=4), Training(), torch.device("cpu"))


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def _at(step: int) -> Snapshot:
    return Snapshot(step, {}, {})


def test_what_is_written_is_the_state_as_it_was_however_late(storage, state):
    gate = threading.Event()

    def slow(snapshot: Snapshot, metrics: object) -> None:
        gate.wait(100)
        save_checkpoint(storage, "r", snapshot, 8)

    saver, as_it_was = Saver(slow), state.snapshot().to_files()
    saver.save(state.snapshot(), {})
    for network in (state.generator, state.discriminator, state.ema):  # training goes on meanwhile
        for tensor in network.state_dict().values():
            tensor.add_(1)
    state.meter.add({"loss_g": 1.0})
    gate.set()
    saver.finish()
    files = read_files(storage, newest_checkpoint(storage, "r"))
    assert {name: data for name, data in files.items() if name != "state.json"} == as_it_was
    assert state.snapshot().to_files() != as_it_was and b'"loss_g"' not in files["state.json"]


def test_a_slow_store_holds_up_nobody_and_gets_the_newest():
    written, gate = [], threading.Event()

    def slow(snapshot: Snapshot, metrics: object) -> None:
        gate.wait(100)
        written.append((snapshot.step, metrics))

    saver, begun = Saver(slow), time.monotonic()
    for step in range(1, 6):
        saver.save(_at(step), {"frechet": float(step)})
        while step == 1 and saver._waiting:
            time.sleep(0.001)
    assert time.monotonic() - begun < within(1)
    gate.set()
    saver.finish()
    assert written == [(1, {"frechet": 1.0}), (5, {"frechet": 5.0})]


def test_a_full_disk_costs_a_checkpoint_and_the_one_before_stands(storage, state, largest_file):
    saver = Saver(lambda snapshot, metrics: save_checkpoint(storage, "r", snapshot, 8))
    saver.save(state.snapshot(), {})
    saver.finish()
    before = newest_checkpoint(storage, "r")
    state.step = 5
    with largest_file(1000):
        saver.save(state.snapshot(), {})
        with pytest.raises(OSError, match="too large"):
            saver.finish()
    assert newest_checkpoint(storage, "r") == before and saver.failures == 1
    saver.save(state.snapshot(), {})
    saver.finish()  # what failed before is made up for
    assert [listed.step for listed in list_checkpoints(storage, "r")] == [5, 0]


def test_a_writer_that_was_superseded_is_told(storage, state):
    attempt = begin_attempt(storage, "r")
    saver = Saver(lambda snapshot, metrics: save_checkpoint(storage, "r", snapshot, 8, attempt=attempt))
    begin_attempt(storage, "r")
    saver.save(state.snapshot(), {})
    with pytest.raises(Superseded):
        saver.finish()
    assert saver.superseded and list_checkpoints(storage, "r") == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_the_thread_that_writes_has_torch_start_no_threads_of_its_own(storage):
    """More of them than cores, and OpenMP's wait asleep for each other, in every step that follows."""
    before, large = torch.get_num_threads(), NetworkSpec("dcgan", 16, 1, width=64, z_dim=4)
    torch.set_num_threads(2)
    try:
        state = fresh_state(large, Training(), torch.device("cpu"))
        saver = Saver(lambda snapshot, metrics: save_checkpoint(storage, "r", snapshot, 8))
        snapshot = state.snapshot()  # which has this thread's
        threads = len(os.listdir("/proc/self/task"))
        saver.save(snapshot, {})
        saver.finish()
        assert len(os.listdir("/proc/self/task")) == threads
    finally:
        torch.set_num_threads(before)


_ENDS = """
import torch
from pipeline.training.saver import Saver
from pipeline.training.state import Snapshot
saver = Saver(lambda snapshot, metrics: None)
saver.save(Snapshot(1, {"net": {str(i): torch.zeros(1000) for i in range(9000)}}, {}), {})
saver.finish()
saver.close()
"""


def test_a_process_may_end_as_soon_as_it_is_closed():
    ended = subprocess.run([sys.executable, "-c", _ENDS], capture_output=True, text=True, timeout=within(30))
    assert (ended.returncode, ended.stderr) == (0, "")
