"""Images augmented by a plan: differentiable twice, deterministic, each image by itself."""

import torch
from torch import Tensor

from ganmodels.ada.colour import recoloured
from ganmodels.ada.geometry import moved
from ganmodels.ada.plan import Plan
from ganmodels.ada.wavelets import bands
from ganmodels.linear import linear_map, on_rows

HOLE = 0.5  # of the image's side


def augmented(images: Tensor, plan: Plan) -> Tensor:
    """Images `(n, c, size, size)` in [-1, 1] under their rows of `plan`; the same shape, precision, device and layout.

    One, three or four channels: colour is as `recoloured` has it, everything else happens to all channels alike.
    What the plan leaves alone comes back bit for bit. Computed in float32 at least. Raises ValueError for a plan
    of another number of images, or images that are not square.
    """
    count, _, height, width = images.shape
    if len(plan.geometry) != count or height != width:
        raise ValueError(f"a plan for {len(plan.geometry)} square images does not fit images {tuple(images.shape)}")
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    wide = moved(wide, plan.geometry)
    wide = recoloured(wide, plan.colour)
    wide = _filtered(wide, plan.gains)
    wide = _with_noise(wide, plan)
    wide = on_rows(wide, plan.holes.isfinite().all(1), _with_hole, plan.holes)
    return wide.to(images.dtype).contiguous(memory_format=layout)


def _filtered(images: Tensor, gains: Tensor) -> Tensor:
    size, rows = images.shape[-1], (gains != 1).any(1)
    if not rows.any():
        return images
    parts = bands(size).to(images.device).flatten(1)

    def change(images: Tensor, gains: Tensor) -> Tensor:
        # One matrix for rows and for columns: a band's gain acts along both axes. Autocast leaves float64 alone.
        matrix = (gains @ parts).view(-1, 1, size, size).to(images.dtype)
        return linear_map(images, lambda x: matrix @ x @ matrix.mT, lambda y: matrix.mT @ y @ matrix)

    return on_rows(images, rows, change, gains)


def _with_noise(images: Tensor, plan: Plan) -> Tensor:
    index = plan.noisy.nonzero()[:, 0].to(images.device)
    return images.index_add(0, index, plan.noise.to(images.device, images.dtype)) if len(index) else images


def _with_hole(images: Tensor, centres: Tensor) -> Tensor:
    size = images.shape[-1]
    here = (torch.arange(size, dtype=centres.dtype, device=centres.device) + 0.5) / size
    inside = (here - centres[..., None]).abs() < HOLE / 2  # (n, 2, size): x, then y
    return images.masked_fill((inside[:, 1, :, None] & inside[:, 0, None, :])[:, None], 0)
