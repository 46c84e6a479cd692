"""Ends a Ray of our own once its driver has ended, however that went. A script of its own: standard library alone.

When a driver is killed, Ray's agents go on for a minute, waiting for a server that died with it, and the session's
folder stays for ever.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ROUNDS = 50  # a fifth of a second each


@contextmanager
def guarded(folder: str) -> Iterator[None]:
    """The Ray whose session is in `folder` goes when this ends or this process dies, the folder too (on Linux)."""
    # A session of its own: a Ctrl-C in the terminal is not meant for it.
    guard = subprocess.Popen([sys.executable, "-IS", __file__, folder], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        guard.communicate()  # closes its input


def _main(folder: str) -> None:
    driver = os.getppid()
    sys.stdin.buffer.read()  # until the driver's end is closed, by the driver or by the kernel
    for _ in range(_ROUNDS):
        left = [pid for pid in _processes(folder) if pid != driver]
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


def _processes(folder: str) -> Iterator[int]:
    """Those that hold a file there open: all of Ray's have a log, what its workers start inherits it, and the driver.

    Not those that have a mark of ours in their environment: Ray's agents write their titles over it.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if any(os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir()):
                yield int(process.name)


if __name__ == "__main__":
    _main(sys.argv[1])
