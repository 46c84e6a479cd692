"""Are the demo's digits what they are said to be, all different, and no copies? `make quality`, after `make demo`.

An independent CNN, trained on the real digits, reads 1,000 generated ones; pixel distances to the real
digits tell variety and copying. Prints each figure beside its bar; exit code 1 if one is missed.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from digit_reader import digit_reader, real_digits
from PIL import Image

from pipeline.shards.manifest import latest_version
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage, default_uri

IMAGES = 1000


def main() -> int:
    real, labels = real_digits()
    reader = digit_reader()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "ganline"), "generate", "mnist@champion"]
        subprocess.run([*command, "-n", str(IMAGES), "--out", folder], check=True)
        rows = list(csv.DictReader(Path(folder, "labels.csv").read_text().splitlines()))
        fake = torch.stack([_pixels(Path(folder, row["file"])) for row in rows])
    asked = torch.tensor([int(row["label"]) for row in rows])
    agreement = (reader.read(fake) == asked).float().mean().item()
    variety = [_spread(fake[asked == c]) / _spread(real[labels == c]) for c in range(10)]

    storage = Storage(default_uri())
    dataset = latest_version(storage, "mnist")
    assert dataset is not None, "run make demo first"
    train, held_out = (_split(storage, dataset, split) for split in ("train", "held_out"))
    closest = torch.cdist(held_out, train).min(1).values.quantile(0.01)
    copies = (torch.cdist(fake.flatten(1), train).min(1).values < closest).float().mean().item()

    figures = [
        ("the CNN's accuracy on real digits it never saw", reader.accuracy, ">=", 0.98),
        ("labels on which the CNN agrees", agreement, ">=", 0.95),
        ("mean pairwise distance within a class over the real digits', mean", float(np.mean(variety)), ">=", 0.85),
        ("the same, in the least varied class", min(variety), ">=", 0.85),
        ("nearer to a training digit than the held-out digits' 1st percentile", copies, "<=", 0.02),
    ]
    missed = 0
    for name, value, sign, bar in figures:
        good = value >= bar if sign == ">=" else value <= bar
        missed += not good
        print(f"{'ok  ' if good else 'MISS'} {value:.4f} {sign} {bar}: {name}")
    return int(missed > 0)


def _pixels(file: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(file)).astype(np.float32))


def _spread(pixels: torch.Tensor) -> float:
    """Mean L2 distance between two different images."""
    flat = pixels.flatten(1)
    return (torch.cdist(flat, flat).sum() / (len(flat) * (len(flat) - 1))).item()


def _split(storage: Storage, dataset, split) -> torch.Tensor:
    images, _ = DatasetReader(storage, dataset, split).read_all()
    return torch.from_numpy(images.astype(np.float32)).flatten(1)


if __name__ == "__main__":
    sys.exit(main())
