"""What a pair of networks is, as plain data that JSON can hold."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NetworkSpec:
    """Everything needed to build a generator and its discriminator.

    Units: `resolution` in pixels (square images), widths in feature channels. `width` is the width at
    full resolution; it doubles with each halving of the resolution up to `max_width`.
    """

    family: str
    resolution: int
    channels: int
    classes: int = 0  # 0: unconditional
    z_dim: int = 64
    width: int = 32
    max_width: int = 512

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkSpec":
        """Raises ValueError for missing or unknown fields."""
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"not a network spec: {error}") from None


def pyramid(spec: NetworkSpec) -> list[tuple[int, int]]:
    """`(resolution, width)` of each feature map, from the smallest up to full resolution.

    Raises ValueError for a resolution that doubling from 4 (or from 7, for 28) does not reach.
    """
    base = 7 if spec.resolution == 28 else 4
    doublings = (spec.resolution // base).bit_length() - 1
    if not 16 <= spec.resolution <= 1024 or spec.resolution != base << doublings:
        raise ValueError(f"resolution {spec.resolution} is not 28 or a power of two from 16 to 1024")
    if spec.channels not in (1, 3, 4):
        raise ValueError(f"channels {spec.channels} is not 1, 3 or 4")
    return [(base << level, min(spec.width << (doublings - level), spec.max_width)) for level in range(doublings + 1)]
