"""Spectral normalisation (Miyato et al. 2018): each weight is divided by its largest singular value.

The value comes from a vector `u` that the power iteration turns towards the weight's first left singular vector.
`forward` only reads `u`: whoever trains turns it once a step with `power_iteration`, so that the step's several
forward passes see one network and each world size sees the same. It is saved with the weights.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.parametrize import register_parametrization

START = 16  # iterations, so that a new network is normalised from its first step


class _Spectral(nn.Module):
    """Weight `(b, ...)` -> the same over `|W^T u| / |u|`, whose derivative by W is the singular vectors' product."""

    u: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("u", normalize(torch.randn_like(weight.detach().flatten(1)[:, 0]), dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        # An average of networks has an average of their `u`, whose length is not one.
        return weight * (self.u.norm() / self._across(weight).norm())

    @torch.no_grad()
    def turn(self, weight: Tensor) -> None:
        self.u.copy_(normalize(weight.flatten(1) @ normalize(self._across(weight), dim=0), dim=0))

    def _across(self, weight: Tensor) -> Tensor:
        return (self.u[:, None] * weight.flatten(1)).sum(0)  # a product of matrices would be bf16 under autocast


def normalise_spectrum(network: nn.Module) -> None:
    """Of every convolution, linear layer and embedding, in place."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            register_parametrization(module, "weight", _Spectral(module.weight))
    power_iteration(network, START)


@torch.no_grad()
def power_iteration(network: nn.Module, times: int = 1) -> None:
    """Turns every `u` towards its weight's singular vector. Does nothing to a network without spectral norm."""
    for module in network.modules():
        for parametrization in getattr(module, "parametrizations", {}).values():
            for _ in range(times):
                parametrization[0].turn(parametrization.original)
