"""One holder at a time over an object store that only writes, lists and deletes: a real S3 server."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hurry import within

from pipeline.errors import Unavailable, UserError
from pipeline.lease import Lease, leased, seems_held
from pipeline.locks import is_held
from pipeline.shards.alone import alone
from pipeline.storage import Storage
from pipeline.training.run import only_writer

SECONDS = 1.5
# Says when it holds the lease, or why it may not, and keeps it until its standard input ends.
HOLD = """
import sys
from pipeline.errors import UserError
from pipeline.lease import leased
from pipeline.storage import Storage
storage = Storage(sys.argv[1])
storage.prepare()
print("ready", flush=True)
sys.stdin.readline()
try:
    with leased(storage, "lock", "busy", float(sys.argv[2])):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


class Process:
    """Another process that wants the lease, once `go` is called."""

    def __init__(self, uri: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, uri, str(SECONDS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin and self.process.stdout
        self.told, self._say = self.process.stdout, self.process.stdin

    def ready(self) -> "Process":
        assert self.told.readline() == "ready\n"
        return self

    def go(self) -> None:
        self._say.write("\n")
        self._say.flush()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(within(10))


@pytest.fixture
def start(s3_root) -> Iterator[Callable[[], Process]]:
    started = []

    def start() -> Process:
        started.append(Process(s3_root))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def storage(s3_root) -> Storage:
    storage = Storage(s3_root)
    storage.prepare()
    return storage


@pytest.fixture
def cut_off(faulty_root, storage, proxy) -> Storage:
    """The same root by a way of its own, which `proxy` can block."""
    return Storage(faulty_root)


def files(storage: Storage) -> list[str]:
    return [entry.path for entry in storage.list("lock")]


def owners(storage: Storage) -> set[str]:
    return {path.split(".")[0] for path in files(storage)}


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + within(10)
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_lost(lease: Lease, grace: float = 0.0) -> str:
    """Why it is lost, as soon as that is known."""
    why = []

    def lost() -> bool:
        try:
            lease.check(grace)
        except Unavailable as error:
            why.append(str(error))
        return bool(why)

    until(lost)
    return why[0]


def until_held(lease: Lease) -> None:
    """However long the client takes to try again, on a machine that does other work. One that was taken never is."""

    def held() -> bool:
        try:
            lease.check()
        except Unavailable:
            return False
        return True

    until(held)


def hold(storage: Storage, seconds: float = SECONDS):
    return leased(storage, "lock", "busy", seconds)


def test_a_second_process_is_refused_in_much_less_than_a_lease_and_told_who_has_it(storage, start):
    holder = start().ready()
    holder.go()
    assert holder.told.readline() == "held\n"
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"^busy \(process {holder.process.pid} on .+\)$"), hold(storage, seconds=30):
        pass
    assert time.monotonic() - began < within(5)  # looks once a second
    holder.end()
    with hold(storage):
        pass
    assert files(storage) == []


def test_a_killed_owners_lease_is_free_after_its_length_and_of_two_that_wait_for_it_one_takes_it(storage, start):
    holder = start().ready()
    holder.go()
    assert holder.told.readline() == "held\n"
    holder.process.send_signal(signal.SIGKILL)
    holder.process.wait()
    began, waited, refused = time.monotonic(), [], []

    def come() -> None:
        try:
            with hold(storage):
                waited.append(time.monotonic() - began)
                time.sleep(SECONDS)
        except UserError as refusal:
            refused.append(str(refusal))

    threads = [threading.Thread(target=come) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    (seconds,), (refusal,) = waited, refused
    assert SECONDS <= seconds < SECONDS + within(3)
    assert f"process {os.getpid()} on" in refusal
    assert files(storage) == []  # of the dead one's neither


def test_of_many_that_come_at_once_exactly_one_goes_on(storage):
    def come(name: int) -> None:
        ready.wait()
        try:
            with hold(storage, seconds=3):
                inside.append(name)
                settled.wait(10)
        except UserError as refusal:
            refused.append(str(refusal))
            if len(refused) == 3:
                settled.set()

    for _ in range(4):
        inside, refused, settled, ready = [], [], threading.Event(), threading.Barrier(4)
        threads = [threading.Thread(target=come, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(inside) == 1 and len(refused) == 3
        assert files(storage) == []


def test_of_two_processes_that_come_at_once_exactly_one_goes_on(storage, start):
    pair = [start(), start()]
    for each in pair:
        each.ready()
    for each in pair:
        each.go()
    refusal, held = sorted(each.told.readline() for each in pair)
    assert held == "held\n" and re.fullmatch(r"busy \(process \d+ on .+\)\n", refusal)


def test_a_holder_that_is_cut_off_knows_that_it_lost_it_before_another_has_it(storage, cut_off, proxy):
    lost = []

    def watch() -> None:
        lost.append((until_lost(lease), time.monotonic()))

    with hold(cut_off) as lease:
        time.sleep(1.2 * SECONDS)
        until_held(lease)  # renewed
        watcher = threading.Thread(target=watch)
        watcher.start()
        proxy.fail("busy", -1)
        with hold(storage):
            taken = time.monotonic()
            watcher.join(10)
            ((why, when),) = lost
            assert when < taken
            assert re.match(r"the lease lock in s3://.* has not been renewed for \d+ s, and another may take it", why)
            lease.check(grace=60)  # not known to be another's: it is cut off
            proxy.forget()
            assert re.search(rf"process {os.getpid()} on .* has taken it", until_lost(lease, grace=60))
            until(lambda: len(owners(storage)) == 1)  # what it wrote late is deleted
    assert files(storage) == []


def test_a_holder_that_was_cut_off_does_not_have_it_again_where_another_came_and_went(storage, cut_off, proxy):
    with hold(cut_off) as lease:
        proxy.fail("busy", -1)
        with hold(storage):
            pass
        proxy.forget()
        assert re.search("another process has taken it", until_lost(lease, grace=60))
    assert files(storage) == []


def test_a_holder_has_it_again_where_nobody_came_while_it_was_cut_off(storage, cut_off, proxy):
    with hold(cut_off) as lease:
        proxy.fail("busy", -1)
        time.sleep(1.2 * SECONDS)
        with pytest.raises(Unavailable):
            lease.check()
        lease.check(grace=60)
        proxy.forget()
        until_held(lease)
        with pytest.raises(UserError), hold(storage):
            pass
    assert files(storage) == []


def test_a_holder_that_was_stopped_and_wakes_after_another_took_over_does_not_hold_it_again(storage, start):
    """Nor does it disturb the other, whose lease is good."""
    sleeper = start().ready()
    sleeper.go()
    assert sleeper.told.readline() == "held\n"
    os.kill(sleeper.process.pid, signal.SIGSTOP)
    with hold(storage) as lease:
        os.kill(sleeper.process.pid, signal.SIGCONT)
        time.sleep(SECONDS / 2)
        until(lambda: len(owners(storage)) == 1)  # what it wrote late is deleted
        until_held(lease)
    sleeper.end()


def test_who_waits_for_a_dead_ones_lease_is_not_displaced_by_those_who_come_later(storage, heard):
    storage.write("lock/dead.000000007.holds.2000", b"process 1 on a machine that is gone")
    assert seems_held(storage, "lock")
    over, refused = threading.Event(), []

    def come_late() -> None:
        while not over.wait(0.3):
            with pytest.raises(UserError) as refusal, hold(storage, seconds=2):
                pass
            refused.append(str(refusal.value))

    late = threading.Thread(target=come_late)
    late.start()
    with hold(storage, seconds=2):
        over.set()
        late.join(10)
    assert len(refused) >= 2
    (line,) = heard.notes
    assert line.startswith("waiting for lock in s3://") and "process 1 on a machine that is gone" in line


@pytest.mark.parametrize(("lock", "path", "busy"), [
    (lambda storage: only_writer(storage, "r", SECONDS), "runs/r/lock", "run r is being trained already"),
    (lambda storage: alone(storage, "pets", SECONDS), "datasets/pets/lock", "dataset pets is being sharded already"),
], ids=["run", "dataset"])  # fmt: skip
def test_what_one_alone_may_write_is_leased_in_an_object_store(storage, lock, path, busy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    with lock(storage):
        until(lambda: is_held(storage, path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
        with pytest.raises(UserError, match=rf"{busy}.*\(process {os.getpid()} on "), lock(Storage(storage.uri)):
            pass
    assert not is_held(storage, path)
    with lock(Storage(storage.uri)):
        pass
