"""One writer a run, the stop word, signals, telemetry."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import pytest
import torch
from ray.train import WorkerGroupError

from pipeline.errors import Stopped, UserError, WorkerFailed
from pipeline.registry.server import client
from pipeline.storage import Storage
from pipeline.training import on_ray, sink
from pipeline.training.plan import plan_run
from pipeline.training.run import (
    ask_to_stop,
    clear_words,
    is_stop_asked,
    only_writer,
    tell_failure,
    told_failure,
)
from pipeline.training.signals import on_stop_signal
from pipeline.training.telemetry import TelemetryFile, read_points, telemetry_path
from pipeline.training.worker import Job, work

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
    clear_words(storage, "r")
    clear_words(storage, "r")
    assert not is_stop_asked(storage, "r") and told_failure(storage, "r") is None


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


def test_a_cut_line_is_left_out_and_points_past_the_checkpoint_are_dropped(storage):
    telemetry = TelemetryFile(storage, "r", 0)
    points = [{"images": n, "time": 1.0, "metrics": {"loss": float(n)}} for n in (10, 20, 30)]
    for point in points:
        telemetry.append(point)
    assert read_points(storage, "r") == points
    with open(storage.local_path(telemetry_path("r")), "ab") as file:
        file.write(b'{"images": 40, "ti')
    assert read_points(storage, "r") == points
    resumed = TelemetryFile(storage, "r", 20)
    resumed.append(points[2])
    assert read_points(storage, "r") == points


def test_a_point_that_a_full_disk_cut_short_is_written_with_the_next(storage, largest_file):
    telemetry = TelemetryFile(storage, "r", 0)
    points = [{"images": n, "time": 1.0, "metrics": {"loss": float(n)}} for n in (10, 20, 30)]
    telemetry.append(points[0])
    size = storage.size(telemetry_path("r"))
    with largest_file(size + 10), pytest.raises(OSError, match="too large"):
        telemetry.append(points[1])
    assert storage.size(telemetry_path("r")) == size + 10
    telemetry.append(points[2])
    assert read_points(storage, "r") == points


def test_a_torn_line_hides_no_later_point(storage):
    points = [b'{"images": 10}', b'{"images": 20, "ti', b'{"images": 30}']
    storage.write(telemetry_path("r"), b"\n".join(points))
    assert [point["images"] for point in read_points(storage, "r")] == [10, 30]


def test_a_signal_after_the_last_step_still_stops_and_what_is_done_is_found(trainer, monkeypatch):
    """While Ray Train takes its workers down, for instance."""

    def fit(storage, config, plan):
        work(Job(storage, config, plan, threads=1), torch.device("cpu"))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(on_ray, "cluster", nullcontext)
    monkeypatch.setattr(on_ray, "_fit", fit)
    config = trainer.config(images=64, seed=77)
    plan = plan_run(trainer.storage, config, trainer.dataset)
    with pytest.raises(Stopped, match="stopped at image 64") as stopped:
        on_ray.train_on_ray(trainer.storage, config, plan)
    assert stopped.value.signal_number == signal.SIGTERM
    assert on_ray.train_on_ray(trainer.storage, config, plan).checkpoint.step == plan.total_steps


def test_a_registry_that_refuses_when_a_run_ends_is_told_when_it_takes_it(trainer, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = client(trainer.storage)
    follower = sink.Sink(trainer.storage, trainer.config(), "t-refused", trainer.dataset)
    while not follower._run_id:
        time.sleep(0.1)
    database = sqlite3.connect(trainer.storage.local_path("mlflow.db"), check_same_thread=False)
    database.execute("ALTER TABLE runs RENAME TO away")
    threading.Timer(0.5, database.execute, ["ALTER TABLE away RENAME TO runs"]).start()
    assert registry.get_run(follower.finish("FINISHED")).info.status == "FINISHED"


def test_a_worker_that_fails_again_and_again_may_go_on_when_its_cause_is_mended():
    error = on_ray._innermost(WorkerGroupError("rank 0", {0: OSError("Traceback\nOSError: No space left on device")}))
    assert isinstance(error, WorkerFailed) and str(error) == "a worker failed: OSError: No space left on device"
