"""Samples of the same latents at every point of a run, one class a column."""

import numpy as np
import torch
from torch import nn

from ganmodels.randomness import image_latents
from ganmodels.spec import NetworkSpec
from pipeline.pictures import tile, to_pixels

ROWS, COLUMNS = 8, 8
_SEED = 0


def columns_of(spec: NetworkSpec) -> int:
    """One for each class, twenty at most; eight where there are none."""
    return min(spec.classes, 20) or COLUMNS


@torch.inference_mode()
def samples(generator: nn.Module, spec: NetworkSpec, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 `(rows x columns, h, w, c)` and their labels, column by column in each row; None without classes."""
    columns = columns_of(spec)
    device = next(generator.parameters()).device
    z = image_latents(0, rows * columns, spec.z_dim, _SEED).to(device)
    labels = torch.arange(rows * columns) % columns if spec.classes else None
    images = generator(z, labels.to(device) if labels is not None else None)
    return to_pixels(images), labels.numpy() if labels is not None else None


def sample_grid(generator: nn.Module, spec: NetworkSpec, rows: int = ROWS) -> bytes:
    """PNG of `rows` images of each class, or of `rows x 8` without classes."""
    return tile(samples(generator, spec, rows)[0], columns_of(spec))
