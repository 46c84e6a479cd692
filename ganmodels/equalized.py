"""Layers with an equalised learning rate (Karras et al. 2018): weights start at N(0, 1) and are scaled when used,
so that Adam's steps, all of one size, mean the same in every layer.

A leaky ReLU takes a positive factor out of its argument, so its gain costs nothing: it is in the weights and the bias.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ganmodels import rectifier
from ganmodels.convolution import convolve

SLOPE = 0.2
GAIN = math.sqrt(2)  # StyleGAN's, of a leaky ReLU


class Linear(nn.Module):
    """`(n, a)` -> `(n, b)`; the weights learn at `rate` times the optimizer's rate, and the bias starts at `bias`."""

    def __init__(self, a: int, b: int, *, gain: float = 1.0, rate: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(b, a) / rate)
        self.bias = nn.Parameter(torch.full((b,), bias / rate))
        self.scale, self.bias_scale = gain * rate / math.sqrt(a), gain * rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.bias_scale)


class Conv2d(nn.Module):
    """`(n, a, r, r)` -> `(n, b, r, r)`; with `stride` 2 and a `kernel` of 3, `(n, a, 2r + 1, 2r + 1)` to that."""

    def __init__(self, a: int, b: int, kernel: int, *, gain: float = 1.0, stride: int = 1, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(b, a, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(b)) if bias else None
        self.scale, self.gain = gain / math.sqrt(a * kernel**2), gain
        self.stride, self.padding = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias * self.gain
        return convolve(x, self.weight * self.scale, bias, self.stride, self.padding)


def leaky_relu(x: torch.Tensor) -> torch.Tensor:
    """Without its gain: give that to the layer before it."""
    return rectifier.leaky_relu(x, SLOPE)
