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

_MARK = "GANLINE_RAY"
_ROUNDS = 50  # a fifth of a second each


@contextmanager
def guarded(folder: str) -> Iterator[None]:
    """What is started within goes when this ends or this process dies, and `folder` with it (processes: on Linux)."""
    # A session of its own: a Ctrl-C in the terminal is not meant for it.
    guard = subprocess.Popen([sys.executable, "-IS", __file__, folder], stdin=subprocess.PIPE, start_new_session=True)
    before = os.environ.get(_MARK)
    os.environ[_MARK] = folder
    try:
        yield
    finally:
        del os.environ[_MARK]
        if before is not None:
            os.environ[_MARK] = before
        guard.communicate()  # closes its input


def _main(folder: str) -> None:
    sys.stdin.buffer.read()  # until the driver's end is closed, by the driver or by the kernel
    for _ in range(_ROUNDS):
        marked = list(_marked(folder))
        for pid in marked:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not marked:
            break
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


def _marked(folder: str) -> Iterator[int]:
    mark = f"{_MARK}={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if mark in (process / "environ").read_bytes().split(b"\0"):
                yield int(process.name)


if __name__ == "__main__":
    _main(sys.argv[1])
