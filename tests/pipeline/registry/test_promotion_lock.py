"""One promotion of a model at a time, and a dead one in the way of none."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hurry import within
from judging import aliases, locks
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.registry.lookup import lookup
from pipeline.registry.promotion_lock import promotion_lock
from pipeline.registry.releases import (
    promote,
)
from pipeline.registry.server import client as connect


def test_only_one_holds_the_lock_even_when_an_expired_one_is_taken_away(world):
    """Eight at once fall upon a lock that nobody will give back."""
    world.client.create_registered_model("busy.promotion-lock", {"ganline.expires": "1.0", "ganline.owner": "dead"})
    inside, most = [], []

    def work(number):
        client = connect(world.storage)
        with promotion_lock(client, "busy", wait=60):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1] * 8
    assert locks(world) == ["busy.promotion-lock.dead"]  # remembered for a day: never taken away twice
    world.client.delete_registered_model("busy.promotion-lock.dead")


def test_one_who_overstayed_does_not_give_back_anothers_lock(world):
    with promotion_lock(world.client, "slow", expires_after=0.1) as mine:
        time.sleep(0.2)
        with promotion_lock(world.client, "slow", wait=5) as theirs:
            with pytest.raises(UserError, match="longer than its lock lasts"):
                mine.check()
            theirs.check()
            owner = world.client.get_registered_model("slow.promotion-lock").tags["ganline.owner"]
            taken_away = [name for name in locks(world) if name != "slow.promotion-lock"]
            # What `mine` does when it ends:
            with pytest.raises(MlflowException, match="already exists"):
                world.client.rename_registered_model("slow.promotion-lock", taken_away[0])
            assert world.client.get_registered_model("slow.promotion-lock").tags["ganline.owner"] == owner
    for name in locks(world):
        assert name != "slow.promotion-lock"
        world.client.delete_registered_model(name)


def test_waiting_for_a_lock_ends(world):
    first, _ = world.release("held", 0), promote(world.client, "held", 1)
    with promotion_lock(world.client, "held"):
        began = time.monotonic()
        with (
            pytest.raises(UserError, match=f"held is being promoted by process {os.getpid()} on") as error,
            promotion_lock(world.client, "held", wait=0.5),
        ):
            pass
        assert 0.5 <= time.monotonic() - began < within(5)
        assert "\n" not in str(error.value)
        assert lookup("held@champion", world.storage).version == first  # readers never wait
    assert locks(world) == []


def test_a_lock_is_given_back_when_promoting_fails(world):
    with pytest.raises(ZeroDivisionError), promotion_lock(world.client, "failing"):
        raise ZeroDivisionError
    assert locks(world) == []


def test_a_lock_is_no_model(world):
    version = world.release("alone", 0)
    promote(world.client, "alone", version)
    with promotion_lock(world.client, "alone"):
        with pytest.raises(UserError, match=r"there is .*alone") as error:
            lookup("not-there@champion", world.storage)
        assert "lock" not in str(error.value)
        with pytest.raises(UserError, match="locks; choose another"):
            lookup("alone.promotion-lock@champion", world.storage)
    with pytest.raises(UserError, match="locks; choose another"):
        world.release("mine.promotion-lock", 0)


HOLD = """
import sys, time
from pipeline.registry.promotion_lock import promotion_lock
from pipeline.registry.server import client
from pipeline.storage import Storage
with promotion_lock(client(Storage(sys.argv[1])), "killed", expires_after=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_promoter_expires(world):
    version = world.release("killed", 0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, world.storage.uri, "3"], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        expires = float(world.client.get_registered_model("killed.promotion-lock").tags["ganline.expires"])
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with pytest.raises(UserError, match="is being promoted"), promotion_lock(world.client, "killed", wait=0):
            pass
        assert promote(world.client, "killed", version).promoted
        assert 0 <= time.time() - expires < within(8)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert aliases(world, "killed") == {"champion": version}
    for name in locks(world):
        assert name.startswith("killed.promotion-lock.")
        world.client.delete_registered_model(name)
