"""The service under clients that ask for one image each, against what it is made of; and how soon it answers.

    python tests/benchmarks/serving.py [--clients 32] [--requests 960] [--pairs 7] [--starts 3] [--out serving.json]

Turn about, on one Ray Serve: the service; an ingress that takes the same requests and answers nothing, behind the same
proxy, asked by the same clients; and the generator alone, 32 rows at a time in a process of its own with one thread,
as a replica has.
The generator is the mnist preset's, untrained. Exit code 1 if a bar is missed: images a second at least 0.6 of the
smaller of the two others' rates; the first image, by the median of the starts, within 20 s of the command.
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from pngs import report
from turns import ratio_of, together

BAR, COLD_SECONDS = 0.6, 20.0
ROWS = 32
GANLINE = str(Path(sys.executable).parent / "ganline")
NOTHING = "/nothing"


def released(root: Path) -> None:
    """`bench@champion`, in a registry of its own."""
    import torch

    from ganmodels.networks import build_generator
    from ganmodels.saving import to_bytes
    from pipeline.recipe import load_config
    from pipeline.registry.releases import promote, register
    from pipeline.registry.runs import open_run
    from pipeline.registry.server import client as connect
    from pipeline.storage import Storage

    config = load_config("mnist", ["name=bench"])
    spec = config.network_spec(1, 10)
    torch.manual_seed(0)
    dataset: dict[str, Any] = {"name": "bench", "digest": "d" * 64, "samples": 1, "classes": 10, "uri": "none"}
    lineage: dict[str, Any] = {"classes": [str(digit) for digit in range(10)], "dataset": "d" * 64}
    lineage |= {"config": config.digest(), "run": "bench", "checkpoint": "none", "images": 0}
    client = connect(Storage(str(root)))
    version = register(
        client, model="bench", run_id=open_run(client, config, "bench", dataset), spec=spec,
        weights=to_bytes(build_generator(spec).state_dict()), lineage=lineage,
    )  # fmt: skip
    promote(client, "bench", version)


def generator_alone(root: str) -> Callable[[], Any]:
    """32 images of as many seeds."""
    from pipeline.registry.lookup import load
    from pipeline.storage import Storage

    generator = load("bench@champion", Storage(root))
    return lambda: generator.sample_rows(range(ROWS), [0] * ROWS)


class Nothing:
    """An ingress that takes the service's requests."""

    def __serve_build_asgi_app__(self):
        from fastapi import FastAPI, Response

        from pipeline.serving.messages import ImagesRequest

        app = FastAPI()

        @app.post("/v1/images")
        async def images(wanted: ImagesRequest) -> Response:
            return Response()

        return app


async def _client(port: int, prefix: str, seeds: range, seconds: list[float]) -> None:
    """Keeps its connection. As little of HTTP as there can be: what clients cost is no part of the service."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for seed in seeds:
        body = b'{"seed": %d}' % seed
        begun = time.perf_counter()
        writer.write(
            b"POST %s/v1/images HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % (prefix.encode(), len(body)) + body
        )  # fmt: skip
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        seconds.append(time.perf_counter() - begun)
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise SystemExit(f"the service answered {head!r}")
    writer.close()


def load_of(port: int, prefix: str, clients: int, requests: int) -> tuple[float, list[float]]:
    """Requests a second, and the seconds of each."""
    seconds: list[float] = []

    async def all_of_them() -> None:
        each = requests // clients
        await asyncio.gather(
            *(_client(port, prefix, range(one * each, (one + 1) * each), seconds) for one in range(clients))
        )

    begun = time.perf_counter()
    asyncio.run(all_of_them())
    return len(seconds) / (time.perf_counter() - begun), seconds


@contextmanager
def both_served(root: Path, port: int):
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from pipeline.serving.on_ray import serving
    from pipeline.serving.settings import Settings

    with serving(Settings("bench@champion", str(root)), "127.0.0.1", port, 1):
        deploy = serve.deployment(max_ongoing_requests=1024, logging_config=LoggingConfig(enable_access_log=False))
        serve.run(deploy(serve.ingress()(Nothing)).bind(), name="nothing", route_prefix=NOTHING)
        yield


def rates(root: Path, clients: int, requests: int, pairs: int) -> dict[str, Any]:
    port = _free_port()
    found: dict[str, list[float]] = {"service": [], "nothing": [], "generator": []}
    seconds: list[float] = []
    with together(generator_alone, str(root), world=1, joined=False) as alone, both_served(root, port):
        for pair in range(pairs + 1):
            rate, taken = load_of(port, "", clients, requests)
            nothing, _ = load_of(port, NOTHING, clients, requests)
            (alone_seconds,) = alone(20)
            if pair:  # the first one warms them
                seconds += taken
                for name, value in (("service", rate), ("nothing", nothing), ("generator", 20 * ROWS / alone_seconds)):
                    found[name].append(value)
    smaller = min("nothing", "generator", key=lambda name: median(found[name]))
    ratio = ratio_of([1 / rate for rate in found["service"]], [1 / rate for rate in found[smaller]])
    seconds.sort()
    return {
        "per_second": {name: median(values) for name, values in found.items()},
        "all": found,
        "smaller": smaller,
        "ratio": {"low": ratio.low, "value": ratio.value, "high": ratio.high},
        "latency_ms": {
            name: 1000 * seconds[int(share * len(seconds))] for name, share in (("p50", 0.5), ("p99", 0.99))
        },
    }


def cold_start(root: Path) -> float:
    """From the command to the first image."""
    port, begun = _free_port(), time.perf_counter()
    env = {**os.environ, "GANLINE_STORAGE": str(root)}
    process = subprocess.Popen(
        [GANLINE, "serve", "bench@champion", "--port", str(port)],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1/images"
    try:
        while process.poll() is None:
            try:
                request = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=10) as answer:
                    assert answer.read(4) == b"\x89PNG"
                return time.perf_counter() - begun
            except OSError:  # not there yet, or the proxy is but the replica is not
                time.sleep(0.05)
        raise SystemExit(f"`ganline serve` ended with {process.returncode}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=960, help="a turn")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory(prefix="ganline-bench-") as folder:
        root = Path(folder)
        released(root)
        starts = [cold_start(root) for _ in range(given.starts)]
        found = rates(root, given.clients, given.requests, given.pairs)
    ratio, rate, latency = found["ratio"], found["per_second"], found["latency_ms"]
    cold = median(starts)
    report(
        [
            f"{given.clients} clients: {rate['service']:,.0f} images/s; an ingress that answers nothing"
            f" {rate['nothing']:,.0f}/s, the generator alone {rate['generator']:,.0f}/s; of the smaller"
            f" {ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}; bar {BAR})",
            f"p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms",
            f"first image {cold:.1f} s after the command (bar {COLD_SECONDS:.0f} s)",
        ],
        {
            "bars": {"ratio": BAR, "cold_start_seconds": COLD_SECONDS},
            "clients": given.clients, "requests": given.requests, **found,
            "cold_start_seconds": {"median": cold, "all": starts},
        },
        given.out,
    )  # fmt: skip
    return int(ratio["value"] < BAR or cold > COLD_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
