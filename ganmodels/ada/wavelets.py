"""Wavelet filters along one axis: a twofold resampler without aliasing, and four bands that sum to the image.

All filters are symmetric about a pixel, and so is the reflection at an image's borders (about the border pixel's
centre). A filtered reflection is then the reflection of what was filtered, and no image ever needs a wide margin.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# The biorthogonal 9/7 pair (Cohen, Daubechies & Feauveau 1992). One doubles the resolution, the other halves it,
# and after each other they leave every pixel as it was, which no symmetric filter does with itself.
DOUBLING = (
    -0.09127176311424948,
    -0.05754352622849957,
    0.5912717631142470,
    1.115087052456994,
    0.5912717631142470,
    -0.05754352622849957,
    -0.09127176311424948,
)
HALVING = (
    0.02674875741080976,
    -0.01686411844287495,
    -0.07822326652898785,
    0.2668641184428723,
    0.6029490182363579,
    0.2668641184428723,
    -0.07822326652898785,
    -0.01686411844287495,
    0.02674875741080976,
)
MARGIN = len(HALVING) // 2  # how far beyond the image, in half pixels, `halved` looks
FIRST = 2 + len(DOUBLING) // 2  # where an image's first pixel comes to lie, one mirrored pixel before it
# The half of all frequencies that Daubechies' four taps pass, without their phase: H(z) H(1/z) / 2.
LOW = {0: 16 / 32, 1: 9 / 32, 3: -1 / 32}


def doubled(x: Tensor, axis: int) -> Tensor:
    """`size` pixels to `2 size - 1`, reflected at the borders; even positions are those of the pixels."""
    size = x.shape[axis]
    framed = torch.cat([x.narrow(axis, 1, 1), x, x.narrow(axis, size - 2, 1)], axis)
    return _spread(framed, DOUBLING, axis).narrow(axis, FIRST, 2 * size - 1)


def doubled_transposed(y: Tensor, axis: int) -> Tensor:
    size = (y.shape[axis] + 1) // 2
    shape = list(y.shape)
    shape[axis] = _spread_size(size + 2, DOUBLING)
    whole = y.new_zeros(shape)
    whole.narrow(axis, FIRST, 2 * size - 1).copy_(y)
    framed = _collected(whole, DOUBLING, axis)
    x = framed.narrow(axis, 1, size).clone()
    x.narrow(axis, 1, 1).add_(framed.narrow(axis, 0, 1))
    x.narrow(axis, size - 2, 1).add_(framed.narrow(axis, size + 1, 1))
    return x


def halved(y: Tensor, axis: int) -> Tensor:
    """`2 size - 1` positions with `MARGIN` more at either end to `size` pixels."""
    return _collected(y, HALVING, axis)


def halved_transposed(x: Tensor, axis: int) -> Tensor:
    return _spread(x, HALVING, axis)


def _collected(y: Tensor, taps: Sequence[float], axis: int) -> Tensor:
    """Every second position's weighted sum, where all taps fit."""
    size = (y.shape[axis] - len(taps)) // 2 + 1
    x = _every_second(y, 0, size, axis) * taps[0]
    for first, tap in enumerate(taps[1:], start=1):
        x.add_(_every_second(y, first, size, axis), alpha=tap)
    return x


def _spread(x: Tensor, taps: Sequence[float], axis: int) -> Tensor:
    """The transpose of `_collected`: each pixel added to every position that it has a weight in."""
    shape = list(x.shape)
    shape[axis] = _spread_size(x.shape[axis], taps)
    y = x.new_zeros(shape)
    for first, tap in enumerate(taps):
        _every_second(y, first, x.shape[axis], axis).add_(x, alpha=tap)
    return y


def _spread_size(size: int, taps: Sequence[float]) -> int:
    return 2 * size - 1 + len(taps) - 1


def _every_second(y: Tensor, first: int, size: int, axis: int) -> Tensor:
    run = y.narrow(axis, first, 2 * size - 1)
    return run[..., ::2] if axis == -1 else run[..., ::2, :]


def reflected(position: Tensor, last: float) -> Tensor:
    """Positions anywhere on the line to `0 .. last`, mirrored at both ends as often as it takes."""
    wrapped = position.remainder(2 * last)
    return torch.minimum(wrapped, 2 * last - wrapped)


def bands(size: int) -> Tensor:
    """Matrices `(4, size, size)`, float64, that sum to the identity: up to pi/8, to pi/4, to pi/2, and to pi.

    They are the wavelet bands of Karras et al. 2020, appendix B, mirrored at the borders.
    """
    below, parts = torch.eye(size, dtype=torch.float64), []
    for spacing in (1, 2, 4):
        whole, below = below, _low(below, spacing)
        parts.append(whole - below)
    return torch.stack([below, *reversed(parts)])


def _low(rows: Tensor, spacing: int) -> Tensor:
    here = torch.arange(len(rows))
    taps = [(side, tap) for distance, tap in LOW.items() for side in sorted({-distance, distance})]
    return torch.stack([tap * rows[reflected(here + side * spacing, len(rows) - 1)] for side, tap in taps]).sum(0)
