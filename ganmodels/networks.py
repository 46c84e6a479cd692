"""Families of networks by name."""

from torch import nn

from ganmodels import dcgan, resnet
from ganmodels.spec import NetworkSpec

FAMILIES = {"dcgan": dcgan, "resnet": resnet}


def build_generator(spec: NetworkSpec) -> nn.Module:
    """Raises ValueError for an unknown family, or a shape that the family cannot make."""
    return _family(spec).Generator(spec)


def build_discriminator(spec: NetworkSpec) -> nn.Module:
    """Raises ValueError for an unknown family, or a shape that the family cannot make."""
    return _family(spec).Discriminator(spec)


def _family(spec: NetworkSpec):
    if spec.family not in FAMILIES:
        raise ValueError(f"no network family {spec.family!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[spec.family]
