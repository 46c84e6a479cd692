"""Holds each unit of a network on the side of its kink that it took before.

The second derivative of a (leaky) ReLU is zero but for a spike at its kink, and double backward leaves the spikes
out. A difference between two points counts each kink that it crosses, which are many however close the points
are: without this, the parameter gradients of a finite-difference R1 were 0.6 to 1.2 times their length off.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_RELU = (F.relu, torch.relu, Tensor.relu)


class RecordedKinks(TorchFunctionMode):
    """Within, the side that each unit of each ReLU and leaky ReLU takes is written down, in order of the calls.

    Other kinks, such as those of a clamp or a maximum, are left as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sides: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _RELU or function is F.leaky_relu:
            self.sides.append(args[0].detach() > 0)
        return function(*args, **(kwargs or {}))


class ReplayedKinks(TorchFunctionMode):
    """Within, the same calls in the same order find each unit on the side that was recorded."""

    def __init__(self, recorded: RecordedKinks):
        super().__init__()
        self.sides, self.next = recorded.sides, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _RELU:
            return self._bent(args[0], 0.0)
        if function is F.leaky_relu:
            return self._bent(*args[:2], **{key: given for key, given in (kwargs or {}).items() if key != "inplace"})
        return function(*args, **(kwargs or {}))

    def _bent(self, input: Tensor, negative_slope: float = 0.01) -> Tensor:
        above = self.sides[self.next]
        self.next += 1
        return torch.where(above, input, negative_slope * input)
