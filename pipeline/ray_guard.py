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
    folder, driver, quiet = os.path.realpath(folder), os.getppid(), 0
    sys.stdin.buffer.read()  # until the driver's end is closed, by the driver or by the kernel
    for _ in range(_ROUNDS):
        left = [pid for pid in _processes(folder) if pid != driver]
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        quiet = 0 if left else quiet + 1
        if quiet == 2:  # one that was about to start another is gone by then too
            break
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


def _processes(folder: str) -> Iterator[int]:
    """Those that write to a file there: all of Ray's have a log, what its workers start inherits it, and the driver.

    Not those that have a mark of ours in their environment: Ray's agents write their titles over it.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if any(_writes(process, file.name, folder) for file in (process / "fd").iterdir()):
                yield int(process.name)


def _writes(process: Path, file: str, folder: str) -> bool:
    """Whether it has that open file below `folder`, and not only to read it."""
    with suppress(OSError):  # closed meanwhile
        if os.readlink(process / "fd" / file).startswith(f"{folder}/"):
            flags = (process / "fdinfo" / file).read_text().split("flags:")[1].split()[0]
            return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
    return False


if __name__ == "__main__":
    _main(sys.argv[1])
