"""Milliseconds from `mnist@champion` to a generator in memory, in a process that has loaded it before.

    python tests/benchmarks/looking_up.py [--rounds 30] [--out looking_up.json]

A generator as large as the preset mnist's, in a real MLflow server on this machine. Turn about: `load`, which asks the
server and reads its verified files from the local cache, and the same by MLflow's own client, which downloads them each
time. Then the server is killed, and `load` serves what it last said. Nothing is kept in memory between two loads. Exit
code 1 if the median of either of ours is above 50 ms. What the first load of a process takes, with torch and MLflow to
import, is told beside it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from mlflow_server import MlflowServer
from pngs import report

from pipeline.recipe import load_config
from pipeline.storage import Storage

AIM = 50.0
REFERENCE = "mnist@champion"
_FIRST = (
    f"import time; t = time.time(); from pipeline.registry import load; load({REFERENCE!r}); print(time.time() - t)"
)


def release(storage: Storage) -> None:
    from ganmodels.networks import build_generator
    from ganmodels.saving import to_bytes
    from pipeline.registry.releases import promote, register
    from pipeline.registry.runs import open_run
    from pipeline.registry.server import client

    config, mlflow = load_config("mnist"), client(storage)
    spec = config.network_spec(1, 10)
    dataset = {"name": "mnist", "digest": "d" * 64, "samples": 5000, "classes": 10, "uri": "file:///nowhere"}
    run = open_run(mlflow, config, "mnist-1", dataset)
    lineage = {"classes": list("0123456789"), "dataset": "d" * 64, "config": "c" * 64}
    lineage |= {"run": "mnist-1", "checkpoint": "step-1", "images": 1}
    weights = to_bytes(build_generator(spec).state_dict())
    promote(mlflow, "mnist", register(mlflow, model="mnist", run_id=run, spec=spec, weights=weights, lineage=lineage))


def by_mlflow(storage: Storage) -> None:
    """The same generator, as MLflow's documents have it."""
    from mlflow.artifacts import download_artifacts
    from mlflow.tracking import MlflowClient

    from pipeline.registry.generator import generator_from_files

    model, alias = REFERENCE.split("@")
    version = MlflowClient().get_model_version_by_alias(model, alias)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(download_artifacts(f"{version.source}/artifacts", dst_path=folder))
        generator_from_files((files / "generator.safetensors").read_bytes(), (files / "spec.json").read_bytes())


def milliseconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    from pipeline.registry import load

    with tempfile.TemporaryDirectory(prefix="ganline-lookup-") as folder:
        server = MlflowServer(Path(folder))
        os.environ |= {"MLFLOW_TRACKING_URI": server.uri, "GANLINE_STORAGE": f"{folder}/store"}
        storage = Storage(f"{folder}/store")
        server.start()
        try:
            server.ready()
            release(storage)
            load(REFERENCE), by_mlflow(storage)  # the first of each does not count
            ours, other = [], []
            for _ in range(given.rounds):
                ours.append(milliseconds(lambda: load(REFERENCE)))
                other.append(milliseconds(lambda: by_mlflow(storage)))
            first = 1000 * float(subprocess.check_output([sys.executable, "-c", _FIRST], text=True))
        finally:
            server.kill()
        away = [milliseconds(lambda: load(REFERENCE)) for _ in range(given.rounds + 1)][1:]
        assert load(REFERENCE).found.stale
    taken = {"cached": ours, "by_mlflow": other, "server_away": away}
    middles = {name: median(values) for name, values in taken.items()}
    told = {name: f"{middles[name]:.1f} ms (p95 {quantiles(values, n=20)[-1]:.1f})" for name, values in taken.items()}
    report(
        [
            f"a cached lookup: {told['cached']}, with the server away {told['server_away']} (aim: {AIM:.0f} ms);"
            f" MLflow's own client: {told['by_mlflow']}; the first load of a process: {first / 1000:.1f} s"
        ],
        {"milliseconds": taken, "medians": middles, "first": first},
        given.out,
    )
    return int(max(middles["cached"], middles["server_away"]) > AIM)


if __name__ == "__main__":
    sys.exit(main())
