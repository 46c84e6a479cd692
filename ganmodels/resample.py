"""Separable filters that double, halve or keep an image's resolution.

Everything is one operation: put `up - 1` zeros after each sample, filter, keep every `down`-th. The derivative of
that operation is itself, with `up` and `down` exchanged and the taps reversed, so it can be differentiated as often
as one likes, and each turn costs as little as the first. Written as a few strided additions along each axis, which
suit channels_last: a depthwise convolution of so few taps, or one channel at a time, takes far longer on a CPU.

Outside the image there are zeros. Pixels are squares: the centre of the image stays where it is, and output pixels
2i and 2i + 1 of a doubling lie in input pixel i.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

# The [1, 2, 1] of linear interpolation after a doubling by repetition, [1, 1]; before a halving by the mean of pairs.
BILINEAR = (1.0, 3.0, 3.0, 1.0)


def upsample(x: torch.Tensor, taps: Sequence[float] = BILINEAR) -> torch.Tensor:
    """`(n, c, h, w)` -> `(n, c, 2h, 2w)`; a constant stays what it is, but for the border.

    `taps` are scaled to sum to 2 along each axis. Raises ValueError if their number is odd: half a pixel's shift.
    """
    half = _half(taps)
    return _both_axes(x, _scaled(taps, 2), up=2, down=1, pad=(half, half - 1))


def downsample(x: torch.Tensor, taps: Sequence[float] = BILINEAR) -> torch.Tensor:
    """`(n, c, 2h, 2w)` -> `(n, c, h, w)`; `taps` are scaled to sum to 1 along each axis.

    Raises ValueError if their number is odd: half a pixel's shift.
    """
    half = _half(taps)
    return _both_axes(x, _scaled(taps, 1), up=1, down=2, pad=(half - 1, half - 1))


def blur(x: torch.Tensor, pad: int, taps: Sequence[float] = BILINEAR, gain: float = 1.0) -> torch.Tensor:
    """`(n, c, h, w)` -> `(n, c, h + 2 pad - t + 1, w + 2 pad - t + 1)` for `t` taps, scaled to sum to `gain` along
    each axis, and `pad` zeros on each side."""
    return _both_axes(x, _scaled(taps, gain), up=1, down=1, pad=(pad, pad))


@dataclass(frozen=True)
class _Filter:
    """Along axis `dim`: `y[j] = sum of taps[j * down + offset - i * up] * x[i]`, for `j` below `size`.

    One of `up` and `down` is 1; a tap that does not exist is zero.
    """

    taps: tuple[float, ...]
    up: int
    down: int
    offset: int
    size: int
    dim: int

    def adjoint(self, size: int) -> "_Filter":
        """Takes a gradient by `y` to one by `x`, whose axis has length `size`."""
        last = len(self.taps) - 1
        return _Filter(self.taps[::-1], self.down, self.up, last - self.offset, size, self.dim)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        shape = list(x.shape)
        shape[self.dim] = self.size
        dense = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=dense).zero_()
        for index, tap in enumerate(self.taps):
            if self.down == 1:
                few, many = _partners(x.shape[self.dim], self.size, self.up, index - self.offset)
                source, target = few, many
            else:
                few, many = _partners(self.size, x.shape[self.dim], self.down, self.offset - index)
                source, target = many, few
            before = (slice(None),) * self.dim
            y[(*before, target)].add_(x[(*before, source)], alpha=tap)
        return y


def _partners(few: int, many: int, step: int, shift: int) -> tuple[slice, slice]:
    """All pairs `(i, step * i + shift)` with `i` in `range(few)` and its partner in `range(many)`, as two slices."""
    first = max(0, -(shift // step))
    count = max(0, min(few, (many - 1 - shift) // step + 1) - first)
    start = step * first + shift
    return slice(first, first + count), slice(start, start + step * count, step)


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, along: _Filter) -> torch.Tensor:
        ctx.adjoint = along.adjoint(x.shape[along.dim])
        return along(x)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return _Apply.apply(gradient, ctx.adjoint), None


def _both_axes(x: torch.Tensor, taps: tuple[float, ...], *, up: int, down: int, pad: tuple[int, int]) -> torch.Tensor:
    """`pad` zeros before and after, in samples of what is filtered."""
    if torch.compiler.is_exporting():
        return _as_convolution(x, taps, up=up, down=down, pad=pad)
    for dim in (2, 3):
        size = (x.shape[dim] * up + sum(pad) - len(taps)) // down + 1
        x = _Apply.apply(x, _Filter(taps, up, down, len(taps) - 1 - pad[0], size, dim))
    return x


def _as_convolution(
    x: torch.Tensor, taps: tuple[float, ...], *, up: int, down: int, pad: tuple[int, int]
) -> torch.Tensor:
    """The same as one operation: slower here, but graphs of other runtimes have no additions to every second row.

    Like all filters of this module: `pad` is the same on both sides unless `up` is 2.
    """
    line = torch.tensor(taps, dtype=x.dtype, device=x.device)
    kernel = torch.outer(line, line).expand(x.shape[1], 1, -1, -1)
    if up > 1:
        return F.conv_transpose2d(x, kernel, stride=up, padding=len(taps) - 1 - pad[0], groups=x.shape[1])
    return F.conv2d(x, kernel.flip(2, 3), stride=down, padding=pad[0], groups=x.shape[1])


def _scaled(taps: Sequence[float], total: float) -> tuple[float, ...]:
    return tuple(tap * total / sum(taps) for tap in taps)


def _half(taps: Sequence[float]) -> int:
    if len(taps) % 2:
        raise ValueError(f"{len(taps)} taps would shift the image by half a pixel; take an even number of them")
    return len(taps) // 2
