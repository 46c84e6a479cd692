"""A leaky ReLU whose second derivative costs as little as its first.

torch's own double backward makes zeros of the unit's size, and adds them up, for what a kink contributes: nothing.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import has_torch_function


def leaky_relu(x: Tensor, slope: float, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.leaky_relu` for slopes above zero, to be differentiated as often as one likes."""
    # Whoever looks for torch's function, as ganmodels.kinks and a compiler do, finds it.
    if torch.compiler.is_compiling() or has_torch_function((x,)) or not torch.is_grad_enabled():
        return F.leaky_relu(x, slope, inplace)
    return _LeakyReLU.apply(x, slope, inplace)


class _LeakyReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        y = F.leaky_relu(x, slope, inplace)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        return _Slope.apply(gradient, y.detach(), ctx.slope), None, None


class _Slope(Function):
    """`gradient` where `y` is above zero, `slope` times it elsewhere: linear, and symmetric."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, y: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(y)
        ctx.slope = slope
        return torch.ops.aten.leaky_relu_backward(gradient, y, slope, True)

    @staticmethod
    def backward(ctx: Any, twice: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        return _Slope.apply(twice, y, ctx.slope), None, None
