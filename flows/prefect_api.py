"""A Prefect API for this process where `PREFECT_API_URL` names none: a server of our own, on loopback.

Prefect would start one itself, but leave it running if this process is killed.
"""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 90
_STOP_SECONDS = 10
_PR_SET_PDEATHSIG = 1


@contextmanager
def temporary_api(home: Path) -> Iterator["TemporaryApi | None"]:
    """Starts the server without waiting for it; call `ready()` before the first flow. `home` keeps its history, and
    one server at a time starts there.

    Set up before `prefect` is imported, which reads its settings then.
    """
    if os.environ.get("PREFECT_API_URL"):
        yield None
        return
    api = TemporaryApi(home)
    try:
        yield api
    finally:
        api.stop()


class TemporaryApi:
    def __init__(self, home: Path):
        home.mkdir(parents=True, exist_ok=True)
        # Two servers that make the same database at once break each other. A lock goes with its holder.
        self._starting = open(home / "starting", "w")  # noqa: SIM115
        fcntl.flock(self._starting, fcntl.LOCK_EX)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(
            PREFECT_HOME=str(home),
            PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_LOGGING_TO_API_ENABLED="false",
            DO_NOT_TRACK="1",
        )
        self.url = os.environ["PREFECT_API_URL"]
        command = [sys.executable, "-m", "prefect", "server", "start"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--no-services", "--no-ui"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)

    def ready(self) -> None:
        """Waits until the server answers. Raises RuntimeError if it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the temporary Prefect server ended with code {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    self._starting.close()
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"the temporary Prefect server did not answer within {_START_SECONDS} s")

    def stop(self) -> None:
        self._starting.close()
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _die_with_parent() -> None:
    """Linux: the kernel ends the server when the thread that started it ends, even by SIGKILL.

    A session of its own keeps Ctrl-C from ending it before the flow that still talks to it.
    """
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
