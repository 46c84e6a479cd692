"""One writer a run, the stop word, signals, telemetry."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from pipeline.errors import Stopped, UserError, WorkerFailed
from pipeline.registry.server import client
from pipeline.storage import Storage
from pipeline.training import here, on_ray, sink
from pipeline.training.run import (
    ask_to_stop,
    begin_anew,
    clear_stop,
    is_stop_asked,
    only_writer,
    tell_failure,
    told_failure,
)
from pipeline.training.signals import on_stop_signal
from pipeline.training.worker import work

HOLD = """
import sys, time
from pipeline.storage import Storage
from pipeline.training.run import only_writer
with only_writer(Storage(sys.argv[1]), "r"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def test_a_second_writer_is_refused_until_the_first_is_dead(storage):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, storage.uri], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="being trained already"), only_writer(storage, "r"):
        pass
    with only_writer(storage, "another"):
        pass
    holder.kill()
    holder.wait()
    with only_writer(storage, "r"):
        pass


def test_the_stop_word_can_be_said_and_taken_back(storage):
    assert not is_stop_asked(storage, "r")
    ask_to_stop(storage, "r", "SIGTERM")
    assert is_stop_asked(storage, "r")
    tell_failure(storage, "r", "why")
    assert told_failure(storage, "r") == "why"
    clear_stop(storage, "r")
    clear_stop(storage, "r")
    assert not is_stop_asked(storage, "r") and told_failure(storage, "r") == "why"
    begin_anew(storage, "r")
    assert told_failure(storage, "r") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number):
    before, asked = signal.getsignal(number), []
    with on_stop_signal(asked.append) as caught:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # at once: the same wish, passed on twice
        assert (asked, caught.number) == ([number.name], number)
        time.sleep(1.1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def inside() -> None:
        with on_stop_signal(lambda name: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_after_the_last_step_still_stops_and_what_is_done_is_found(trainer, monkeypatch):
    """While Ray Train takes its workers down, for instance."""

    def work_and_be_asked(*arguments) -> None:
        work(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(here, "work", work_and_be_asked)
    config = trainer.config(images=64, seed=77, workers=0)
    with pytest.raises(Stopped, match="stopped at image 64") as stopped:
        trainer.alone(config)
    assert stopped.value.signal_number == signal.SIGTERM
    assert trainer.alone(config).checkpoint.images == 64


def test_a_registry_that_refuses_when_a_run_ends_is_told_when_it_takes_it(trainer, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = client(trainer.storage)
    follower = sink.Sink(trainer.storage, trainer.config(), "t-refused", trainer.dataset)
    while not follower._link:
        time.sleep(0.1)
    database = sqlite3.connect(trainer.storage.local_path("mlflow.db"), check_same_thread=False)
    database.execute("ALTER TABLE runs RENAME TO away")
    threading.Timer(0.5, database.execute, ["ALTER TABLE away RENAME TO runs"]).start()
    assert registry.get_run(follower.finish("FINISHED")).info.status == "FINISHED"


def test_a_worker_that_fails_again_and_again_may_go_on_when_its_cause_is_mended():
    error = on_ray._innermost(WorkerGroupError("rank 0", {0: OSError("Traceback\nOSError: No space left on device")}))
    assert isinstance(error, WorkerFailed) and str(error) == "a worker failed: OSError: No space left on device"


def test_a_worker_that_died_is_told_of_rather_than_those_that_missed_it():
    missed, died = OSError("connection closed by peer"), WorkerHealthCheckFailedError("poll failed", ActorDiedError())
    error = on_ray._innermost(WorkerGroupError("two", {0: missed, 1: died}))
    assert str(error) == "worker 1 died: killed, out of memory, or its machine is gone"
