"""Batch normalisation whose statistics look across the whole global batch, on any backend.

`torch.nn.SyncBatchNorm` refuses process groups on CPU. Follows Ioffe & Szegedy 2015, with the
per-channel sums all-reduced in the forward and in the backward pass.
"""

import torch
import torch.distributed as dist
from torch import nn


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _SumOverRanks(torch.autograd.Function):
    """Every rank's loss depends on the sum, so the gradient is summed too, and the gradient's gradient likewise."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return _SumOverRanks.apply(gradient)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The same on every rank; can be differentiated, as often as one likes."""
    return _SumOverRanks.apply(tensor) if world_size() > 1 else tensor


class GlobalBatchNorm2d(nn.Module):
    """Normalises `(n, width, h, w)` per channel; no learned scale or shift (callers add their own).

    Training: mean and biased variance over the rows of every rank. Evaluation: running averages.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            mean, var = self._global_moments(x)
        else:
            mean, var = self.running_mean, self.running_var
        scale = (var + self.eps).rsqrt()
        return torch.addcmul(
            (-mean * scale).to(x.dtype)[None, :, None, None], x, scale.to(x.dtype)[None, :, None, None]
        )

    def _global_moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()  # bf16 sums lose the variance
        width = x.shape[1]
        rows = wide.new_full((1,), x.numel() / width)
        sums = sum_over_ranks(torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), rows]))
        mean = sums[:width] / sums[-1]
        var = (sums[width:-1] / sums[-1] - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)
        return mean, var


class ConditionalBatchNorm2d(nn.Module):
    """GlobalBatchNorm2d with a scale and shift per class (de Vries et al. 2017), or one for all."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.norm = GlobalBatchNorm2d(width)
        self.scale = nn.Parameter(torch.ones(max(classes, 1), width))
        self.shift = nn.Parameter(torch.zeros(max(classes, 1), width))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        rows = labels if labels is not None else x.new_zeros(1, dtype=torch.long)
        scale = self.scale[rows].to(x.dtype)[:, :, None, None]
        shift = self.shift[rows].to(x.dtype)[:, :, None, None]
        return torch.addcmul(shift, self.norm(x), scale)
