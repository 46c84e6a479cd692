"""What single values of the configuration may be. A check gives the value as it is kept, or raises ValueError."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictInt

from ganmodels.spec import NetworkSpec, pyramid


def not_taken(name: str) -> str:
    if name == "Default":
        raise ValueError("Default is MLflow's own experiment; take another name")
    if ".promotion-lock" in name:
        raise ValueError("names with .promotion-lock are those of locks; take another name")
    return name


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"), AfterValidator(not_taken)]


def one_line(value: str) -> str:
    if not value.isprintable() or value.isspace():
        raise ValueError("write one line of text")
    return value


Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(one_line)]
Positive = Annotated[StrictInt, Field(gt=0)]  # else `true` would be 1
Operation = Literal[
    "xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac", "brightness", "contrast", "lumaflip", "hue",
    "saturation", "imgfilter", "noise", "cutout",
]  # fmt: skip


Extra = Literal["frechet_interval", "path_length"]  # figures that cost as much as all others, and more
PixelRange = Literal["0-255", "0-1", "-1-1"]  # of float32 pixels


def first_and_last(value: str) -> str:
    first, _, last = value.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError(f"write the first and the last step, such as 100-110, not {value}")
    return value


def number_or_range(value: Any) -> int | str | None:
    """A number, or a range FEWEST-MOST: a range of one size is a number."""
    fewest, dash, most = value.partition("-") if isinstance(value, str) else ("", "", "")
    if dash and fewest.isdecimal() and most.isdecimal() and 1 <= int(fewest) <= int(most):
        return int(fewest) if int(fewest) == int(most) else value
    if value is None or (type(value) is int and value >= 0):
        return value
    raise ValueError("write a number, or the fewest and the most, such as 1-4")


def of_collectives(names: dict[str, str]) -> dict[str, str]:
    if strange := [name for name in names if not name.startswith(("NCCL_", "GLOO_", "TORCH_NCCL_"))]:
        raise ValueError(f"{strange[0]} is no setting of NCCL or gloo: they begin with NCCL_, GLOO_ or TORCH_NCCL_")
    return names


def network_resolution(value: int | None) -> int | None:
    if value is not None:
        pyramid(NetworkSpec("", value, 1))
    return value


def colour(value: Any) -> str:
    value = str(value).lower()
    if value in ("white", "black") or re.fullmatch("#[0-9a-f]{6}", value):
        return {"#ffffff": "white", "#000000": "black"}.get(value, value)
    raise ValueError('write white, black or a colour in quotes, "#rrggbb"')


def sorted_once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))
