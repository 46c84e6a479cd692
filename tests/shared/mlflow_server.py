"""A real MLflow server on this machine, in one process that can be stopped, killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

_LIMIT_SECONDS = 120


class MlflowServer:
    """What `mlflow server` starts, without its job executor: `address` is HOST:PORT, and stays the same."""

    def __init__(self, folder: Path):
        self.address = f"127.0.0.1:{_free_port()}"
        self.folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen | None = None
        self._env = {
            **os.environ,
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/server.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._env.pop("MLFLOW_TRACKING_URI", None)

    @property
    def uri(self) -> str:
        return f"http://{self.address}"

    def start(self) -> None:
        """Returns at once; see `ready`."""
        host, port = self.address.split(":")
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app", "--host", host, "--port", port],
                env=self._env, stdout=log, stderr=log,
            )  # fmt: skip

    def ready(self) -> None:
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not self._answers():
            assert self._process and self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def hang(self) -> None:
        """It still takes connections, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process
        self._process.wait()

    def _signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def _answers(self) -> bool:
        """To a question to its database: for the first it makes its tables, which on a busy machine takes seconds."""
        headers = {"Content-Type": "application/json"}
        search = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/experiments/search", b'{"max_results": 1}', headers, method="POST"
        )
        try:
            with urllib.request.urlopen(search, timeout=_LIMIT_SECONDS) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
