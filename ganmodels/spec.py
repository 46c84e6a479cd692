"""What a pair of networks is, as plain data that JSON can hold."""

from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class NetworkSpec:
    """Everything needed to build a generator and its discriminator.

    Units: `resolution` in pixels (square images), widths in feature channels. `width` is the width at
    full resolution; it doubles with each halving of the resolution up to `max_width`. (StyleGAN2's
    channel base is `width x resolution`.)
    """

    family: str
    resolution: int
    channels: int
    classes: int = 0  # 0: unconditional
    z_dim: int = 64
    width: int = 32
    max_width: int = 512
    # Options: each family has an `OPTIONS` of those that it takes.
    widths: tuple[int, ...] = ()  # of each feature map, from the smallest up, instead of `width` and `max_width`
    cardinality: tuple[int, ...] = ()  # groups of each map's 3x3 convolutions; empty: an eighth of its width
    blocks: int = 2  # residual blocks a resolution
    w_dim: int = 512  # length of a style, and width of the mapping network
    mapping_layers: int = 8
    group: int = 4  # consecutive rows that share a minibatch standard deviation; 1: none do
    spectral_norm: str = "none"  # or of the "discriminator", or of "both"
    attention: int = 0  # side in pixels of the feature maps that attend to themselves; 0: none do
    bigan: bool = False  # the discriminator judges pairs of images and latents, and there is an encoder

    def __post_init__(self) -> None:
        for name in ("widths", "cardinality"):  # JSON has lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def options(self) -> dict[str, Any]:
        """Those that are not at their default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)[_ALWAYS:]}
        return {
            field.name: values[field.name] for field in fields(self)[_ALWAYS:] if values[field.name] != field.default
        }

    def to_dict(self) -> dict[str, Any]:
        """Without options at their default: what was written before there was an option keeps its digest."""
        values = {field.name: getattr(self, field.name) for field in fields(self)[:_ALWAYS]} | self.options()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def of_generator(self) -> "NetworkSpec":
        """The same but for what concerns other networks: equal where one generator's weights fit the other.

        Raises ValueError where `pyramid` does.
        """
        plain = NetworkSpec(self.family, self.resolution, self.channels)
        return replace(
            self,
            widths=tuple(width for _, width in pyramid(self)), width=plain.width, max_width=plain.max_width,
            group=plain.group, spectral_norm="both" if self.spectral_norm == "both" else "none", bigan=False,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkSpec":
        """Raises ValueError for missing or unknown fields, and for values that no network could have."""
        try:
            spec = cls(**values)
        except TypeError as error:
            raise ValueError(f"not a network spec: {error}") from None
        check_values(spec)
        return spec


_ALWAYS = [field.name for field in fields(NetworkSpec)].index("max_width") + 1
_LEAST = {
    "classes": 0, "z_dim": 1, "width": 1, "max_width": 1, "blocks": 1, "w_dim": 1, "mapping_layers": 1, "group": 1,
    "attention": 0,
}  # fmt: skip


def check_values(spec: NetworkSpec) -> None:
    """Raises ValueError for the first value of a type or range that makes no network of any family."""
    for name, least in _LEAST.items():
        if not _whole(value := getattr(spec, name), least):
            raise ValueError(f"{name} {value!r} is not a whole number of at least {least}")
    for name in ("widths", "cardinality"):
        value = getattr(spec, name)
        if not (isinstance(value, tuple) and all(_whole(each, 1) for each in value)):
            raise ValueError(f"{name} {value!r} are not whole numbers of at least 1")
    if not isinstance(spec.bigan, bool):
        raise ValueError(f"bigan {spec.bigan!r} is not true or false")
    if spec.spectral_norm not in ("none", "discriminator", "both"):
        raise ValueError(f"spectral_norm {spec.spectral_norm!r} is not none, discriminator or both")


def pyramid(spec: NetworkSpec) -> list[tuple[int, int]]:
    """`(resolution, width)` of each feature map, from the smallest up to full resolution.

    Raises ValueError for a resolution that doubling from 4 (or from 7, for 28) does not reach, and for `widths`
    that are not one for each feature map.
    """
    base = 7 if spec.resolution == 28 else 4
    doublings = (spec.resolution // base).bit_length() - 1 if _whole(spec.resolution, 16) else 0
    if not doublings or spec.resolution > 1024 or spec.resolution != base << doublings:
        raise ValueError(f"resolution {spec.resolution} is not 28 or a power of two from 16 to 1024")
    if spec.channels not in (1, 3, 4):
        raise ValueError(f"channels {spec.channels} is not 1, 3 or 4")
    sides = [base << level for level in range(doublings + 1)]
    widths = spec.widths or tuple(min(spec.width * spec.resolution // side, spec.max_width) for side in sides)
    if len(widths) != len(sides):
        raise ValueError(f"widths {list(widths)} are not one for each side of {sides}")
    return list(zip(sides, widths, strict=True))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
