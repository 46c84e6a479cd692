"""Sample grids: the same latents at every point of a run, one class a column."""

import torch
from torch import nn

from ganmodels.randomness import image_latents
from ganmodels.spec import NetworkSpec
from pipeline.pictures import tile, to_pixels

ROWS, COLUMNS = 8, 8
_SEED = 0


@torch.inference_mode()
def sample_grid(generator: nn.Module, spec: NetworkSpec, rows: int = ROWS) -> bytes:
    """PNG of `rows` images of each class (at most twenty classes), or of `rows x 8` images without classes."""
    columns = min(spec.classes, 20) or COLUMNS
    device = next(generator.parameters()).device
    z = image_latents(0, rows * columns, spec.z_dim, _SEED).to(device)
    labels = (torch.arange(rows * columns) % columns).to(device) if spec.classes else None
    return tile(to_pixels(generator(z, labels)), columns)
