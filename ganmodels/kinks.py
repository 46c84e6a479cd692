"""Lets a network be differenced as double backward would differentiate it.

Each unit is held on the side of its kink that it took before: the second derivative of a (leaky) ReLU is zero but for
a spike at its kink, and double backward leaves the spikes out. A difference between two points counts each kink that
it crosses, which are many however close the points are: without this, the parameter gradients of a finite-difference
R1 were 0.6 to 1.2 times their length off.

The norm of a short vector, such as the standard deviation of rows that are nearly alike, turns within its length, which
may be less than any difference's. It is held to its expansion of second order, which has all the derivatives that
matter: what is left of a discriminator is of second order along any line, where a central difference has no error but
rounding, whatever its length.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_RELU = (F.relu, torch.relu, Tensor.relu)
# Not `vector_norm`, of which torch makes other norms. A function of ours in its place would not do: compilation keeps
# torch's own functions alone apart from their parts.
_NORM = torch.linalg.norm


class RecordedKinks(TorchFunctionMode):
    """Within, what each ReLU, leaky ReLU and `torch.linalg.norm(vectors, dim=...)` is given is written down, in order
    of the calls.

    Other kinks, such as those of a clamp or a maximum, are left as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Tensor] = []  # whether each unit was above its kink; or the vectors themselves

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _RELU or function is F.leaky_relu:
            self.calls.append(args[0].detach() > 0)
        elif function is _NORM:
            self.calls.append(args[0].detach())
        return function(*args, **(kwargs or {}))


class ReplayedKinks(TorchFunctionMode):
    """Within, the same calls in the same order find each unit on the side that was recorded, and each norm
    expanded about the vectors that were."""

    def __init__(self, recorded: RecordedKinks):
        super().__init__()
        self.calls, self.next = recorded.calls, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _RELU:
            return _bent(self._recorded(), args[0], 0.0)
        if function is F.leaky_relu:
            slope = {key: given for key, given in (kwargs or {}).items() if key != "inplace"}
            return _bent(self._recorded(), *args[:2], **slope)
        if function is _NORM:
            return _expanded(self._recorded(), args[0], **kwargs)
        return function(*args, **(kwargs or {}))

    def _recorded(self) -> Tensor:
        self.next += 1
        return self.calls[self.next - 1]


def _bent(above: Tensor, input: Tensor, negative_slope: float = 0.01) -> Tensor:
    return torch.where(above, input, negative_slope * input)


def _expanded(centre: Tensor, vectors: Tensor, dim: int) -> Tensor:
    """Their norms, not zero at `centre`, to second order in `vectors - centre`."""
    at_centre, moved = _NORM(centre, dim=dim), vectors - centre
    first = (centre * moved).sum(dim) / at_centre
    return at_centre + first + (moved.square().sum(dim) - first.square()) / (2 * at_centre)
