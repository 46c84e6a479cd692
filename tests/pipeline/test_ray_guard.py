"""A Ray of our own ends with its driver, even one that was killed."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hurry import within

DRIVER = """
import ray
from pipeline.on_ray import cluster

with cluster():
    ray.get(ray.remote(lambda: None).remote())
    print("ready", flush=True)
    input()
"""


def _descendants(pid: int) -> set[int]:
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
    found, added = set[int](), {pid}
    while added:
        found |= added
        added = {child for child, parent in parents.items() if parent in added}
    return found - {pid}


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """The names of Ray's sockets may have 107 letters. A link, as temporary folders sometimes are."""
    with tempfile.TemporaryDirectory(prefix="g") as folder:
        (Path(folder) / "real").mkdir()
        (Path(folder) / "link").symlink_to("real")
        yield Path(folder) / "link"


def test_nothing_is_left_of_it_when_its_driver_is_killed(short_folder):
    # Ray's agents write their titles over a part of their environment that depends on what is in it.
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(short_folder), **{f"V{i}": "x" * 20 for i in range(11)}}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout and driver.stdout.readline() == "ready\n"
        started = _descendants(driver.pid)
        assert len(started) > 5
        driver.kill()
    deadline = time.monotonic() + within(20)
    while (left := {pid for pid in started if Path(f"/proc/{pid}").exists()}) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == set() and list(short_folder.iterdir()) == []
