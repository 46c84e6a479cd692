"""A Ray cluster of real raylets on this machine: a head without CPUs, and nodes of one CPU that come and go."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from s3_server import free_port

_LIMIT_SECONDS = 240
_RAY = str(Path(sys.executable).parent / "ray")
_ALIVE = """
import json, ray
ray.init("auto", logging_level="error", log_to_driver=False)
print("nodes", json.dumps({node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}))
"""


@dataclass
class Cluster:
    """Nodes by their address, 127.0.0.2 and so on. `environment` is what a command needs to join it."""

    address: str
    environment: dict[str, str]
    folder: str
    nodes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, *addresses: str) -> None:
        for address in addresses:
            self.begin(address, "--address", self.address, "--num-cpus", "1")

    def begin(self, address: str, *arguments: str) -> None:
        """Returns when the node is part of the cluster: two that start at once on one machine get in their way."""
        said = Path(self.folder, f"{address}-{len(list(Path(self.folder).glob(f'{address}-*')))}.log")
        with open(said, "wb") as log:
            self.nodes[address] = subprocess.Popen(
                [_RAY, "start", "--block", "--disable-usage-stats", "--node-ip-address", address, *arguments,
                 "--object-store-memory", "80000000", "--dashboard-agent-listen-port", "0"],
                env=os.environ | self.environment, start_new_session=True, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + _LIMIT_SECONDS
        while b"Ray runtime started" not in said.read_bytes():
            assert time.monotonic() < deadline and self.nodes[address].poll() is None, said.read_text()
            time.sleep(0.1)

    def alive(self) -> dict[str, str]:
        """Ray's ids of the nodes by address."""
        done = subprocess.run(
            [sys.executable, "-c", _ALIVE],
            env=os.environ | self.environment, capture_output=True, text=True, timeout=_LIMIT_SECONDS,
        )  # fmt: skip
        told = [line for line in done.stdout.splitlines() if line.startswith("nodes ")]
        return json.loads(told[0].removeprefix("nodes ")) if told else {}

    def node_of(self, pid: int) -> str:
        """Where a process runs."""
        return next(address for address, node in self.nodes.items() if pid in below(node.pid))

    def kill(self, address: str) -> None:
        """SIGKILL to the raylet first, then to all else of that node at once: as if it had lost its power."""
        node = self.nodes.pop(address)
        pids = below(node.pid)
        raylets = [pid for pid in pids if _name(pid) == "raylet"]
        for pid in [*raylets, *pids, node.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def drain(self, address: str, seconds: int) -> None:
        """As a cloud gives notice that it takes a machine back."""
        subprocess.run(
            [_RAY, "drain-node", "--address", self.address, "--node-id", self.alive()[address],
             "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back",
             "--deadline-remaining-seconds", str(seconds)],
            env=os.environ | self.environment, check=True, capture_output=True, timeout=_LIMIT_SECONDS,
        )  # fmt: skip


@contextmanager
def ray_cluster(environment: dict[str, str], *addresses: str) -> Iterator[Cluster]:
    """Of a head and these nodes, whose processes have `environment`."""
    # Ray's sockets have paths too long for pytest's own folders.
    with tempfile.TemporaryDirectory(prefix="ganline-ray-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        cluster = Cluster(f"127.0.0.1:{port}", dict(environment), folder)
        cluster.environment |= {
            "RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_worker_niceness": "0",
        }  # fmt: skip
        try:
            cluster.begin(
                "127.0.0.1", "--head", "--port", str(port), "--num-cpus", "0", "--include-dashboard", "false",
                "--temp-dir", folder,
            )  # fmt: skip
            cluster.start(*addresses)
            yield cluster
        finally:
            for address in list(cluster.nodes):
                cluster.kill(address)


def below(pid: int) -> list[int]:
    """Processes that it started, and those that they started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
