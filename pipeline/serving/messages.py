"""What the service takes and gives, with the limits on every input."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_IMAGES = 256
MOST_TRUNCATION = 2.0
MOST_BODY = 16 * 1024  # bytes
MOST_WAITING = 2048  # images, at a replica
MOST_SECONDS = 30.0  # that what waits there will take, as it looks
_SEEDS = 2**63  # what fits a signed 64-bit integer, from zero

Kind = Literal["png", "zip", "json"]


class ImagesRequest(BaseModel):
    """Image `i` of the answer is image `i` of this seed: it does not depend on `n`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False,
        json_schema_extra={"examples": [{"n": 1, "seed": 7}, {"n": 8, "seed": 7, "truncation": 0.7, "format": "json"}]},
    )  # fmt: skip

    n: int = Field(1, ge=1, le=MOST_IMAGES, description="how many images")
    seed: int = Field(0, ge=0, lt=_SEEDS, description="image i depends on the seed, i and its class alone")
    label: Annotated[str, Field(max_length=200)] | Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="one class, by name or by number; without it image i is of class i modulo the classes"
    )
    truncation: float = Field(1.0, ge=0, le=MOST_TRUNCATION, description="below 1: safer and less varied")
    format: Kind | None = Field(
        None, description="png is one image; without it the Accept header decides, else png for one and zip for several"
    )


class Image(BaseModel):
    index: int
    label: str | None = Field(description="its class")
    png: str = Field(description="a PNG file in base64")


class Images(BaseModel):
    """The images, and what they can be made from again."""

    model: str
    version: int
    seed: int
    truncation: float
    images: list[Image]


class Model(BaseModel):
    """The release that answers now. `metrics` are its run's figures; `trouble` is None where all is well."""

    model: str
    version: int
    alias: str | None
    reference: str
    run_id: str
    dataset: str
    config: str
    metrics: dict[str, float]
    classes: list[str]
    resolution: int
    channels: int
    registry: Literal["answers", "away"]
    trouble: str | None
    limits: dict[str, int | float]


class Version(BaseModel):
    """A released version. `figures` are those that its decision was taken on; `report` is a path on this service."""

    version: int
    aliases: list[str]
    created: str = Field(description="ISO 8601, UTC")
    promoted: bool | None = Field(description="None: nothing was decided yet")
    reason: str | None
    rule: str | None
    figures: dict[str, float | str]
    report: str | None


class Versions(BaseModel):
    """The newest versions, newest first, as the registry had them when it last answered."""

    model: str
    serving: int
    registry: Literal["answers", "away"]
    versions: list[Version]


class Health(BaseModel):
    """Without the token, where one is wanted, `status` alone."""

    status: Literal["ok"]
    model: str | None = None
    version: int | None = None
    registry: Literal["answers", "away"] | None = None
    trouble: str | None = None


class Refusal(BaseModel):
    """Why there is no answer, in one line."""

    detail: str


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI."""
    return {code: {"model": Refusal, "description": _WHY[code]} for code in codes}


_WHY = {
    400: "a body that can not be read as JSON at all: no UTF-8, or nested too deep",
    401: "no token, or another",
    404: "there is none",
    406: "no form that was asked for can hold this many images",
    413: f"a body of more than {MOST_BODY:,} bytes",
    422: "an input that is not possible; the answer names it",
    503: "too much is waiting; Retry-After says in how many seconds to come again",
}
