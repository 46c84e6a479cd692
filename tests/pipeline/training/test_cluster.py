"""What the driver knows of a real Ray: how many workers there is room for, and which of them live."""

import subprocess
import sys
import time

import pytest
import ray
from hurry import within

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.training.pulse.on_ray import Listener, Pulse, kill
from pipeline.training.resources.on_ray import Missing, room_for, share_of, wait_for_room

pytestmark = pytest.mark.usefixtures("ray_cluster")  # two CPUs


def _config(**cluster: object) -> Config:
    return Config.model_validate({"name": "t", "cluster": cluster})


def _wait(until: object) -> None:
    deadline = time.monotonic() + within(30)
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _nobody_stops() -> bool:
    return False


@ray.remote(num_cpus=1)
class Holder:
    def there(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("workers", "expected"),
    [(None, (2, 2, 1)), (1, (1, 1, 2)), (2, (2, 2, 1)), ("1-2", (1, 2, 1)), ("1-4", (1, 4, 1))],
)
def test_a_share_follows_the_recipe_and_the_machine(workers, expected):
    share = share_of(_config(workers=workers))
    assert (share.fewest, share.most, share.cpus_each) == expected and not share.on_gpus
    assert room_for(share) == wait_for_room(share, 0, _nobody_stops) == min(2, share.most)


def test_more_than_there_is_is_refused_with_what_is_missing(monkeypatch):
    with pytest.raises(UserError, match="workers is 3 but Ray has 2 CPUs"):
        share_of(_config(workers=3))
    with pytest.raises(UserError, match="workers is 2 of 2 CPUs but Ray has 2 CPUs"):
        share_of(_config(workers=2, cpus_per_worker=2))
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")  # where machines may come
    share = share_of(_config(workers=3))
    with pytest.raises(Missing, match="room for 2 of 3 workers with 1 CPU each, and got no more within 4 s"):
        wait_for_room(share, 4, _nobody_stops)


def test_who_is_asked_to_stop_waits_for_no_machines(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    begun = time.monotonic()
    assert wait_for_room(share_of(_config(workers=3)), 600, lambda: time.monotonic() - begun > 1) == 0
    assert time.monotonic() - begun < within(3)


def test_what_others_hold_is_no_room_and_is_waited_for():
    share, holder = share_of(_config(workers="1-2")), Holder.remote()
    assert ray.get(holder.there.remote())
    _wait(lambda: room_for(share) == 1)
    assert wait_for_room(share, 0, _nobody_stops) == 1  # enough for the fewest
    begun = time.monotonic()
    ray.kill(holder)
    assert wait_for_room(share_of(_config(workers=2)), 100, _nobody_stops) == 2
    assert time.monotonic() - begun < within(8)


def test_a_worker_that_beats_is_never_silent_and_one_that_stops_is_named_with_its_last_step():
    listener, pulses = Listener("g", 2, patience=2.5), [Pulse("g", rank) for rank in (0, 1)]
    pulses[1].at_step(41)
    _wait(lambda: listener.silent() == [] and len(listener._heard) == 2)
    assert listener.nodes == {ray.get_runtime_context().get_node_id()}
    time.sleep(1.2)
    pulses[1].end()
    heard = time.monotonic()
    _wait(listener.silent)
    (beat,) = listener.silent()
    assert (beat.rank, beat.step) == (1, 41) and time.monotonic() - heard < within(5)
    pulses[0].end()
    listener.forget()


def test_nobody_is_blamed_for_a_silence_that_nobody_listened_to(monkeypatch):
    listener, pulse = Listener("h", 1, patience=6), Pulse("h", 0)
    _wait(lambda: listener.silent() == [] and listener._heard)
    pulse.end()
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 60)  # this machine slept
    assert listener.silent() == []


def test_a_stopped_process_is_ended():
    process = subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"])
    listener, pulse = Listener("k", 1, patience=60), Pulse("k", 0)
    _wait(lambda: listener.silent() == [] and listener._heard)
    pulse.end()
    beat = listener._heard[0][0]
    kill(type(beat)(**{**vars(beat), "pid": process.pid}))
    assert process.wait(within(10)) == -9
    kill(type(beat)(**{**vars(beat), "pid": process.pid}))  # gone already
