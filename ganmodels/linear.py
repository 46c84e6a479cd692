"""Linear maps of images with their transposes written out, so that they can be differentiated without end."""

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]
CACHED = 2**16  # values; measured on images of 32 to 128 pixels


class _LinearMap(torch.autograd.Function):
    """A linear map's derivative is its transpose, and that one's derivative the map again: nothing is saved."""

    @staticmethod
    def forward(ctx, x: Tensor, there: Map, back: Map) -> Tensor:
        ctx.there, ctx.back = there, back
        with torch.autocast(x.device.type, enabled=False):  # matrix products would be rounded to bf16, both ways
            return there(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _LinearMap.apply(gradient, ctx.back, ctx.there), None, None


def linear_map(x: Tensor, there: Map, back: Map) -> Tensor:
    """`there(x)`, whose gradient is `back` of the gradient; `back` must be the transpose of `there`.

    Both run without autocast and in `x`'s own precision, in the backward passes too, which autograd would
    otherwise run under whatever autocast surrounds `torch.autograd.grad`.
    """
    return _LinearMap.apply(x, there, back)


def on_rows(images: Tensor, rows: Tensor, change: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """`images` `(n, c, h, w)` with `change(images, *parameters)` where `rows` `(n,)`, a bool on the CPU, says so.

    Each of `parameters` has a row an image. The other images stay what they are, bit for bit, and cost nothing.
    """
    chosen = rows.nonzero()[:, 0]
    if not len(chosen):
        return images
    # A processor's cache holds a few images' intermediate values, not a batch's.
    at_once = max(CACHED // images[0].numel(), 1) if images.device.type == "cpu" else len(chosen)
    changed = [
        change(
            images.index_select(0, part.to(images.device)), *(values[part].to(images.device) for values in parameters)
        )
        for part in chosen.split(at_once)
    ]
    return images.index_copy(0, chosen.to(images.device), torch.cat(changed))
