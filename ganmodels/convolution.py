"""A convolution whose second derivative costs as little as its first.

A convolution is linear in its image and in its weight, so the two adjoints and itself are each other's derivatives,
and torch has a fast kernel for each. Its own double backward does not use them: it takes a weight's gradient with a
kernel of the size of the image, one group of channels at a time, in another memory layout.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F


class _How(NamedTuple):
    stride: int
    padding: int
    groups: int

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, 1, self.groups)

    def by_image(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._backward(gradient, x, weight, [True, False, False])[0]

    def by_weight(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._backward(gradient, x, weight, [False, True, False])[1]

    def _backward(self, gradient: Tensor, x: Tensor, weight: Tensor, mask: list[bool]) -> tuple[Any, Any, Any]:
        stride, padding = [self.stride] * 2, [self.padding] * 2
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, [1, 1], False, [0, 0], self.groups, mask
        )


class Conv2d(nn.Conv2d):
    """torch's, square and padded with zeros."""

    def forward(self, input: Tensor) -> Tensor:
        return convolve(input, self.weight, self.bias, self.stride[0], int(self.padding[0]), self.groups)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """`torch.nn.functional.conv2d`, to be differentiated as often as one likes."""
    how = _How(stride, padding, groups)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return how.convolve(x, weight, bias)
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:  # which torch leaves alone there too
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if not weight.requires_grad and (bias is None or not bias.requires_grad):
        return _Image.apply(x, weight, bias, None, how)
    sides = [(side + 2 * padding - weight.shape[2]) // stride + 1 for side in x.shape[2:]]
    tap = _Weight.apply(weight, bias, (x,), (len(x), len(weight), *sides), how)
    return _Image.apply(x, weight, bias, tap, how)


class _Image(Function):
    """The convolution; its derivative by the image. That by weight and bias hangs on `tap`, which is not there.

    A node of a graph computes either all of its derivatives or none: on one node, a penalty, which asks for the
    derivative by the image, would pay for that by the weight too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tap: Tensor | None, how: _How) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return how.convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        by_image = _Adjoint.apply(gradient, weight, x.detach(), ctx.how) if ctx.needs_input_grad[0] else None
        return by_image, None, None, gradient if ctx.needs_input_grad[3] else None, None


class _Weight(Function):
    """Zeros of the convolution's shape, which take no memory; what comes back to them goes on to weight and bias."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, image: tuple[Tensor], shape: Any, how: _How) -> Tensor:
        ctx.save_for_backward(image[0], weight)
        ctx.how = how
        return weight.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        by_weight = _Correlate.apply(x, gradient, weight.detach(), ctx.how) if ctx.needs_input_grad[0] else None
        by_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[1] else None  # oneDNN takes three times as long
        return by_weight, by_bias, None, None, None


class _Adjoint(Function):
    """`(gradient, weight)` to what the gradient is by the image, which is `like`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, weight: Tensor, like: Tensor, how: _How) -> Tensor:
        ctx.save_for_backward(gradient, weight, like)
        ctx.how = how
        return how.by_image(gradient, like, weight)

    @staticmethod
    def backward(ctx: Any, twice: Tensor) -> Any:
        gradient, weight, _ = ctx.saved_tensors
        by_gradient = convolve(twice, weight, None, *ctx.how) if ctx.needs_input_grad[0] else None
        by_weight = _Correlate.apply(twice, gradient, weight.detach(), ctx.how) if ctx.needs_input_grad[1] else None
        return by_gradient, by_weight, None, None


class _Correlate(Function):
    """`(image, gradient)` to what the gradient is by the weight, which is `like`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor, like: Tensor, how: _How) -> Tensor:
        ctx.save_for_backward(x, gradient)
        ctx.how = how
        return how.by_weight(gradient, x, like)

    @staticmethod
    def backward(ctx: Any, twice: Tensor) -> Any:
        x, gradient = ctx.saved_tensors
        by_image = _Adjoint.apply(gradient, twice, x.detach(), ctx.how) if ctx.needs_input_grad[0] else None
        by_gradient = convolve(x, twice, None, *ctx.how) if ctx.needs_input_grad[1] else None
        return by_image, by_gradient, None, None
