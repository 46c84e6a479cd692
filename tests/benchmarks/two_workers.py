"""Images/s of two workers, beside the sum of two runs of one worker each at the same time on the same two cores.

    python tests/benchmarks/two_workers.py [--pairs 20] [--out two_workers.json]

One thread a process, and as many rows a process on both sides: what is missing from that sum is what it costs to share
gradients. First 32 px networks of width 64 at 128 rows, then the presets at what their batch gives each of two
workers, on noise. Exit code 1 if the first is below 0.88 of the sum at the interval's lower end.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import torch
import torch.distributed as dist
from gpu_steps import noise_images, stepping
from pngs import report
from turns import race, together, told

from ganmodels.ranks import world_size
from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.recipe import load_config
from pipeline.training.memory import keep_memory
from pipeline.training.precision import resolve_precision

WORLD, ROWS, AIM = 2, 128, 0.88
WIDE = NetworkSpec("dcgan", 32, 3, width=64)
CLASSES = {"mnist": (1, 10), "emoji64": (3, 9)}  # by preset: its images' channels and classes
TURN = 1024  # rows of each process, in whole cycles of lazy penalties


def stepper(spec: NetworkSpec, recipe: dict[str, Any], rows: int, bf16: bool) -> Callable[[], None]:
    """A step of this process, on `rows` rows of its own: of a rank where there is a group, else of a run."""
    keep_memory()
    world = world_size()
    rank = dist.get_rank() if world > 1 else 0
    training = Training.model_validate({**recipe, "batch": rows * world})
    _, step = stepping(spec, training, torch.device("cpu"), rank=rank, world=world, bf16=bf16)
    images, labels = noise_images(spec, training.batch, rank=rank, world=world)

    def act() -> None:
        step(images, labels, False)

    return act


def beside_the_sum(pairs: int, *given: Any, rows: int) -> dict[str, Any]:
    """Of `stepper(*given)`; seconds are those that the same images take at each side's rate."""
    with (
        together(stepper, *given, world=WORLD, joined=True) as group,
        together(stepper, *given, world=WORLD, joined=False) as apart,
    ):
        # Two runs' rates add up, whichever is the faster.
        return race(lambda n: max(group(n)), lambda n: harmonic_mean(apart(n)), TURN // rows, pairs, WORLD * rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    precision = resolve_precision("auto")
    cases = {"width 64": (WIDE, {"r1": 1.0, "penalty_every": 4}, ROWS)}
    for preset, shape in CLASSES.items():
        config = load_config(preset)
        cases[preset] = (config.network_spec(*shape), config.training.model_dump(), config.training.batch // WORLD)
    found = {}
    for name, (spec, recipe, rows) in cases.items():
        found[name] = {
            "rows": rows,
            **beside_the_sum(given.pairs, spec, recipe, rows, precision == "bf16", rows=rows),
        }
        print(told(f"{name}, {rows} rows a worker, {precision}", found[name]), flush=True)
    report([f"aim for the first: from {AIM}"], {"precision": precision, "cases": found}, given.out)
    return int(found["width 64"]["ratio"]["low"] < AIM)


if __name__ == "__main__":
    sys.exit(main())
