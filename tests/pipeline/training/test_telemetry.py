"""Points that wait for no store, are written once and read once."""

import itertools
import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest
from hurry import within

from pipeline.storage import Storage
from pipeline.training import telemetry as module
from pipeline.training.spool import segments as segments_module
from pipeline.training.spool.disk import DiskWriter
from pipeline.training.telemetry import (
    Follower,
    TelemetryFile,
    delete_telemetry,
    last_point,
    read_points,
    telemetry_folder,
    telemetry_path,
)


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def far(faulty_root, proxy) -> Storage:
    """On an S3 server, which can be taken away by the proxy before it."""
    return Storage(faulty_root)


@pytest.fixture
def quick(monkeypatch) -> None:
    """No time between two appends or attempts."""
    monkeypatch.setattr(module.SegmentWriter, "pause", 0.0)
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.1)


@pytest.fixture(params=["local", "far"])
def anywhere(request, quick) -> Storage:
    return request.getfixturevalue({"local": "storage", "far": "far"}[request.param])


def point(images: int, **metrics: float) -> dict:
    return {"images": images, "time": images / 10, "metrics": {"loss": float(images), **metrics}}


def wrote(storage: Storage, resume_images: int, points: list[dict]) -> None:
    """One start of a run, which ends well."""
    telemetry = TelemetryFile(storage, "r", resume_images)
    for one in points:
        telemetry.append(one)
    telemetry.close()


def drained(follower: Follower) -> list[dict]:
    found = []
    while points := follower.new_points():
        found += points
    return found


def test_what_was_appended_is_there_in_order(anywhere):
    points = [point(images) for images in range(0, 10_000, 10)]
    wrote(anywhere, 0, points)
    assert read_points(anywhere, "r") == points
    assert last_point(anywhere, "r") == points[-1]
    delete_telemetry(anywhere, "r")
    assert read_points(anywhere, "r") == [] and last_point(anywhere, "r") is None


def test_a_start_drops_what_it_will_measure_again_and_keeps_what_was_measured_late(anywhere, monkeypatch):
    monkeypatch.setattr(segments_module, "MOST_BYTES", 200)  # three points
    late = {"images": 30, "time": 0.5, "metrics": {"frechet": 2.0}}  # of a state that training had left
    first = [*map(point, range(10, 110, 10)), late, point(110), point(120)]
    wrote(anywhere, 0, first)
    follower = Follower(anywhere, "r")
    assert drained(follower) == first
    again = [point(80, more=1.0), point(90, more=1.0)]
    wrote(anywhere, 70, again)
    kept = [one for one in first if one["images"] <= 70]
    assert late in kept and read_points(anywhere, "r") == kept + again
    assert drained(follower) == kept + again  # the cut is noticed
    wrote(anywhere, 20, [])  # back by more than one start: the checkpoints between were damaged
    assert read_points(anywhere, "r") == first[:2]


def test_a_start_reads_only_the_segments_that_it_may_have_to_cut(far, proxy, quick, monkeypatch):
    monkeypatch.setattr(segments_module, "MOST_BYTES", 2_000)
    wrote(far, 0, [point(images) for images in range(20_000)])
    there = len(list(far.list(telemetry_folder("r"))))
    proxy.forget()
    wrote(far, 19_990, [])
    assert there > 20 and len(proxy.requests) >= 1 and proxy.count("GET", "/telemetry/") < 8


def test_telemetry_of_an_earlier_version_is_read_and_gone_on_with(anywhere):
    old = [point(images) for images in (10, 20, 30)]
    anywhere.write(telemetry_path("r"), b"".join(json.dumps(one).encode() + b"\n" for one in old))
    follower = Follower(anywhere, "r")
    assert drained(follower) == read_points(anywhere, "r") == old
    wrote(anywhere, 20, [point(25)])
    assert drained(follower) == read_points(anywhere, "r") == [*old[:2], point(25)]


def test_a_torn_line_hides_no_later_point_and_goes_with_the_next_start(storage):
    storage.write(telemetry_path("r"), b'{"images": 10}\n{"images": 20, "ti\n{"images": 30}\n{"images": 40, "t')
    follower = Follower(storage, "r")
    assert [one["images"] for one in drained(follower)] == [10, 30]
    assert [one["images"] for one in read_points(storage, "r")] == [10, 30]
    wrote(storage, 100, [])
    assert storage.read(telemetry_path("r")) == b'{"images": 10}\n{"images": 30}\n'


def test_a_point_that_a_full_disk_cut_short_is_written_when_there_is_room(storage, largest_file, quick, caplog):
    telemetry, follower = TelemetryFile(storage, "r", 0), Follower(storage, "r")
    points = [point(images) for images in (10, 20, 30)]
    telemetry.append(points[0])
    assert telemetry.flush(5) and drained(follower) == points[:1]
    size = storage.size(telemetry_path("r"))
    with largest_file(size + 10):
        telemetry.append(points[1])
        assert not telemetry.flush(0.3)
        assert storage.size(telemetry_path("r")) == size + 10  # half of it
        assert drained(follower) == []
    telemetry.append(points[2])
    telemetry.close()
    assert read_points(storage, "r") == points and drained(follower) == points[1:]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2  # away, and back


KILLED = """
import sys
from pipeline.storage import Storage
from pipeline.training.telemetry import TelemetryFile
telemetry = TelemetryFile(Storage(sys.argv[1]), "r", 0)
for images in range(1, 1 << 40):
    telemetry.append({"images": images, "time": 0.0, "metrics": {"loss": images / 3}})
    if images % 50 == 0:
        print(images if telemetry.flush(60) else -1, flush=True)
"""


def test_a_point_of_a_killed_run_is_there_or_not(storage):
    process = subprocess.Popen([sys.executable, "-c", KILLED, storage.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    flushed = [int(process.stdout.readline()) for _ in range(20)][-1]
    follower = Follower(storage, "r")
    seen = drained(follower)
    process.send_signal(signal.SIGKILL)
    flushed = max([flushed, *map(int, process.stdout.read().split())])
    process.wait()
    seen += drained(follower)
    assert flushed >= 1000
    assert [one["images"] for one in seen] == list(range(1, len(seen) + 1)) and len(seen) >= flushed
    assert all(one["metrics"] == {"loss": one["images"] / 3} for one in seen)
    assert read_points(storage, "r") == seen


@pytest.mark.parametrize("fault", ["busy", "reset", "lost"])
def test_a_store_that_is_away_holds_up_no_append_and_loses_no_point(far, proxy, quick, fault):
    telemetry = TelemetryFile(far, "r", 0)
    points = [point(images) for images in range(400)]
    telemetry.append(points[0])
    assert telemetry.flush(within(10))
    proxy.fail(fault, -1)
    slowest = 0.0
    for one in points[1:]:
        begun = time.perf_counter()
        telemetry.append(one)
        slowest = max(slowest, time.perf_counter() - begun)
        time.sleep(0.001)
    assert slowest < within(0.1)  # the machine's own pauses are in it
    assert not telemetry.flush(0.2) and proxy.hit
    proxy.forget()
    telemetry.close()
    assert read_points(far, "r") == points


def test_a_store_that_is_away_at_the_start_holds_up_nothing_either(far, proxy, quick):
    wrote(far, 0, [point(10), point(20)])
    proxy.fail("reset", -1)
    telemetry = TelemetryFile(far, "r", 10)
    telemetry.append(point(30))
    assert not telemetry.flush(0.2)
    proxy.forget()
    telemetry.close()
    assert read_points(far, "r") == [point(10), point(30)]


def test_a_flush_waits_for_no_point_that_comes_after_it(storage, monkeypatch):
    append = DiskWriter.append
    monkeypatch.setattr(DiskWriter, "append", lambda self, lines: (time.sleep(0.1), append(self, lines))[1])
    telemetry, go_on = TelemetryFile(storage, "r", 0), Event()

    def more() -> None:
        for images in itertools.count():
            if go_on.wait(0.01):
                return
            telemetry.append(point(images))

    thread = Thread(target=more)
    thread.start()
    time.sleep(0.3)
    done = telemetry.flush(5)
    go_on.set()
    thread.join()
    telemetry.close()
    assert done


def test_close_waits_no_longer_than_it_may_and_says_what_is_missing(far, proxy, quick, caplog):
    telemetry = TelemetryFile(far, "r", 0)
    assert telemetry.flush(within(10))
    proxy.fail("busy", -1)
    telemetry.append(point(10))
    begun = time.monotonic()
    telemetry.close(0.5)
    assert time.monotonic() - begun < within(2)
    assert "1 telemetry points of r could not be written" in caplog.text


def test_a_bound_that_drops_points_says_so(storage, monkeypatch, largest_file, caplog):
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    telemetry = TelemetryFile(storage, "r", 0)
    assert telemetry.flush(5)
    with largest_file(1), caplog.at_level(logging.WARNING):
        for images in range(5):
            telemetry.append(point(images))
        assert caplog.text.count("what comes now is lost") == 1
    telemetry.close()
    assert "2 telemetry points of r could not be written" in caplog.text
    assert [one["images"] for one in read_points(storage, "r")] == [0, 1, 2]


def test_a_writer_that_comes_back_from_the_dead_adds_nothing(anywhere):
    dead = TelemetryFile(anywhere, "r", 0)
    dead.append(point(10))
    assert dead.flush(10)
    living = TelemetryFile(anywhere, "r", 10)
    living.append(point(20))
    assert living.flush(10)
    if anywhere.is_local:  # on an object store it can still write to the segment that was its own
        dead.append(point(20, dead=1.0))
    dead.close()
    living.close()
    assert read_points(anywhere, "r") == [point(10), point(20)]


def _bytes(kind: str) -> int:
    """That this process has read or written by now, of whatever."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())[kind])


def test_what_a_long_run_reads_and_writes_grows_as_its_telemetry_does(storage):
    telemetry, follower = TelemetryFile(storage, "r", 0), Follower(storage, "r")
    assert telemetry.flush(5)
    read, written, seen = _bytes("rchar"), _bytes("wchar"), 0
    for images in range(10_000):
        telemetry.append(point(images))
        if images % 50 == 0:
            assert telemetry.flush(5)
            seen += len(drained(follower))
    telemetry.close()
    seen += len(drained(follower))
    size = storage.size(telemetry_path("r"))
    assert seen == 10_000 and size > 500_000
    assert len(Follower(storage, "r").new_points()) < 6_000  # whoever follows has never all of them in memory
    assert _bytes("wchar") - written < 1.5 * size
    assert _bytes("rchar") - read < 1.5 * size


def test_on_an_object_store_as_well(far, proxy, quick, monkeypatch):
    """There a point costs at most one segment to write, and its own bytes to read."""
    monkeypatch.setattr(segments_module, "MOST_BYTES", 20_000)
    telemetry, follower, seen = TelemetryFile(far, "r", 0), Follower(far, "r"), 0
    proxy.forget()
    for images in range(2_000):
        telemetry.append(point(images))
        if images % 50 == 0:
            assert telemetry.flush(within(10))
            seen += len(drained(follower))
    telemetry.close()
    assert seen + len(drained(follower)) == 2_000
    sizes = [entry.size for entry in far.list(telemetry_folder("r"))]
    assert len(sizes) > 4 and max(sizes) <= 20_000
    assert proxy.moved < 40 * 20_000 + 1.5 * sum(sizes)
