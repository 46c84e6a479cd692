"""Seconds from the start of a new run to its first step, with two workers, beside an empty `fit` of two in Ray Train.

    python tests/benchmarks/first_step.py [--rounds 3] [--out first_step.json]

Turn about, each in a process of its own that has imported what it needs, and each with its own Ray, whose start counts.
The empty one ends when `fit` has returned; when its workers have begun is told beside it. The run is a new one of the
preset mnist on a dataset that is there, timed to the first point of its telemetry. Exit code 1 if that takes 8 s more
than the empty one, by the medians.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from pngs import report

from pipeline.recipe import load_config
from pipeline.storage import Storage

AIM, WORKERS = 8.0, 2


def empty(folder: Path) -> dict[str, float]:
    """As Ray's documents have it, but for the folders."""
    import ray
    import ray.train.torch

    begins = folder / "begins"

    def nothing() -> None:
        begins.touch()

    begun = time.time()
    ray.init("local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, _temp_dir=str(folder / "ray"))
    trainer = ray.train.torch.TorchTrainer(
        nothing,
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS),
        run_config=ray.train.RunConfig(name="empty", storage_path=str(folder)),
    )
    trainer.fit()
    taken = {"empty": time.time() - begun, "empty_begins": begins.stat().st_mtime - begun}
    ray.shutdown()
    return taken


def first_step(folder: Path) -> dict[str, float]:
    import pipeline.training.on_ray  # noqa: F401  # which is imported only where Ray is used
    from pipeline.shards.manifest import latest_version
    from pipeline.training.plan import plan_run
    from pipeline.training.run import only_writer
    from pipeline.training.telemetry import read_points
    from pipeline.training.train import train_run

    storage = Storage(str(folder / "store"))
    sets = [f"cluster.workers={WORKERS}", "training.images=512", "training.log_every=64"]
    config = load_config("mnist", sets)
    dataset = latest_version(storage, config.name)
    assert dataset
    plan = plan_run(storage, config, dataset)
    begun = time.time()
    with only_writer(storage, plan.run) as held:
        train_run(storage, config, plan, held)
    return {"first_step": read_points(storage, plan.run)[0]["time"] - begun}


def sharded(folder: Path) -> dict[str, float]:
    """Makes the dataset that the run is on; no part of the comparison."""
    from pipeline.shards.on_ray import shard_images

    config = load_config("mnist")
    shard_images(Storage(str(folder / "store")), config.name, config.data)
    return {}


def alone(act: Callable[[Path], dict[str, float]], folder: Path) -> dict[str, float]:
    """What `act` gives in a process that ends with it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, act, folder))
    process.start()
    there.close()  # so that one that died is not waited for
    try:
        return here.recv()
    finally:
        process.join()


def _answer(pipe: Connection, act: Callable[[Path], dict[str, float]], folder: Path) -> None:
    pipe.send(act(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {"empty": [], "empty_begins": [], "first_step": []}
    for _ in range(given.rounds):
        for acts in ((empty,), (sharded, first_step)):
            with tempfile.TemporaryDirectory(prefix="ganline-first-", ignore_cleanup_errors=True) as folder:
                for act in acts:
                    for name, taken in alone(act, Path(folder)).items():
                        seconds[name].append(taken)
    fit, begins, step = (median(taken) for taken in seconds.values())
    report(
        [
            f"an empty fit: {fit:.1f} s, whose workers begin after {begins:.1f} s; the first step of a run:"
            f" {step:.1f} s, {step - fit:+.1f} s to the empty fit (aim: {AIM:.0f})"
        ],
        {"seconds": seconds, "more": step - fit},
        given.out,
    )
    return int(step - fit > AIM)


if __name__ == "__main__":
    sys.exit(main())
