"""Sums and means over the rows of every rank, on any backend, and their gradients."""

import torch
import torch.distributed as dist


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
    """The tensor added up over all ranks, which all call this; can be differentiated any number of times."""
    return _SumOverRanks.apply(tensor) if world_size() > 1 else tensor


def global_means(*columns: torch.Tensor) -> torch.Tensor:
    """Mean of each column over its rows on every rank, `(columns,)`, however unevenly the rows are spread.

    Columns are `(n,)` of one length and type, float32 or wider.
    """
    rows = columns[0].new_full((), len(columns[0]))
    sums = sum_over_ranks(torch.stack([*(column.sum() for column in columns), rows]))
    return sums[:-1] / sums[-1]
