"""Families of networks by name."""

from torch import Tensor, nn

from ganmodels import dcgan, r3gan, resnet, stylegan2
from ganmodels.randomness import Key
from ganmodels.spec import NetworkSpec, check_values

FAMILIES = {"dcgan": dcgan, "resnet": resnet, "r3gan": r3gan, "stylegan2": stylegan2}
_NOISE = {"stylegan2": stylegan2.draw_noise}


def build_generator(spec: NetworkSpec) -> nn.Module:
    """Raises ValueError for an unknown family, or a shape or an option that the family cannot make."""
    return _family(spec).Generator(spec)


def build_discriminator(spec: NetworkSpec) -> nn.Module:
    """Raises ValueError for an unknown family, or a shape or an option that the family cannot make."""
    return _family(spec).Discriminator(spec)


def build_encoder(spec: NetworkSpec) -> nn.Module:
    """From images back to latents. Raises ValueError for a spec without `bigan`, or one that the family cannot make."""
    family = _family(spec)
    if not spec.bigan:
        raise ValueError(f"these {spec.family} networks have no encoder; set bigan")
    return family.Encoder(spec)


def draw_noise(spec: NetworkSpec, rows: int, *key: Key) -> list[Tensor]:
    """What a generator takes in training besides latents and labels, `(rows, ...)` each, to be given as its `noise`:
    nothing in most families."""
    draw = _NOISE.get(spec.family)
    return draw(spec, rows, *key) if draw else []


def rows_together(spec: NetworkSpec) -> int:
    """Of how many rows a discriminator needs a multiple in each stream, for the same rows to look at each other at
    every world size: 1 where none do. Raises ValueError for an unknown family."""
    return spec.group if "group" in _family(spec).OPTIONS else 1


def _family(spec: NetworkSpec):
    if spec.family not in FAMILIES:
        raise ValueError(f"no network family {spec.family!r}; there are {', '.join(FAMILIES)}")
    check_values(spec)
    family = FAMILIES[spec.family]
    for name in spec.options().keys() - family.OPTIONS:
        takes = ", ".join(sorted(family.OPTIONS))
        raise ValueError(f"{spec.family} networks take no {name}; their options are {takes}")
    return family
