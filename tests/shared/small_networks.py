"""Specs and networks of every family that are small enough for tests."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ganmodels.networks import build_discriminator, build_encoder, build_generator
from ganmodels.randomness import generator as keyed
from ganmodels.spec import NetworkSpec

ROWS = 2  # a minibatch standard deviation's: batches are multiples of it

_OPTIONS: dict[str, dict[str, Any]] = {"stylegan2": {"w_dim": 6, "mapping_layers": 2, "group": ROWS}}


def small(family: str, resolution: int = 16, channels: int = 1, classes: int = 0, **changes: Any) -> NetworkSpec:
    spec = NetworkSpec(family, resolution, channels, classes, z_dim=4, width=2, max_width=4)
    return replace(spec, **_OPTIONS.get(family, {}) | changes)


def well_mixed(spec: NetworkSpec) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator in float64, the same each time, with no weight at zero or too small to be felt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pair = build_generator(spec).double(), build_discriminator(spec).double()
    for side, network in enumerate(pair):
        _mix(network, spec.family, side)
    return pair


def well_mixed_encoder(spec: NetworkSpec) -> nn.Module:
    return _mix(build_encoder(spec).double(), spec.family, 2)


def _mix(network: nn.Module, family: str, side: int) -> nn.Module:
    for index, (name, weight) in enumerate(network.named_parameters()):
        noise = torch.randn(weight.shape, dtype=weight.dtype, generator=keyed(0, "weight", side, index))
        weight.data = _size(family, side, name) * noise
    return network


def _size(family: str, side: int, name: str) -> float:
    """So that images and logits are of the size of one to ten: more would drown small differences."""
    if family == "stylegan2":  # it scales its weights when it uses them
        return 100.0 if name.startswith("mapping.layers") else (0.35, 1.3)[side]
    return 0.42 if family == "r3gan" else 0.3
