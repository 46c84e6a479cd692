"""Keys of a recipe that hold a number, or a way from one number to another over the images of a run.

`0.5`, or `{from: 0.5, to: 0.05, over: 2e7, shape: cosine}`, both ends within the number's own range.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from ganmodels import schedules

Value = TypeVar("Value")


class Schedule(BaseModel, Generic[Value]):
    """A way from one value to another, counted in images from the run's first."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    start: Value = Field(alias="from")
    end: Value = Field(alias="to")
    over: float = Field(gt=0, allow_inf_nan=False, description="images until it has come to `to`, where it stays")
    shape: Literal["cosine", "ramp"] = "cosine"

    @model_validator(mode="after")
    def _leads_somewhere(self) -> "Schedule[Value]":
        if self.start == self.end:
            raise ValueError(f"goes from {self.start} to {self.end}; write the number alone")
        return self


def value_at(setting: float | Schedule[float], images: int) -> float:
    """What a number or a schedule comes to once `images` have been seen."""
    if isinstance(setting, Schedule):
        return schedules.value(schedules.Schedule(setting.start, setting.end, setting.over, setting.shape), images)
    return setting


def _form(given: Any) -> str:
    """In brackets, so that error messages can leave it out of a key's place."""
    return "(schedule)" if isinstance(given, dict | Schedule) else "(number)"


_NUMBER, _SCHEDULE, _EITHER = Tag("(number)"), Tag("(schedule)"), Discriminator(_form)

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

ScheduledWeight = Annotated[Annotated[Weight, _NUMBER] | Annotated[Schedule[Weight], _SCHEDULE], _EITHER]
ScheduledDecay = Annotated[Annotated[Decay, _NUMBER] | Annotated[Schedule[Decay], _SCHEDULE], _EITHER]
ScheduledShare = Annotated[Annotated[Share, _NUMBER] | Annotated[Schedule[Share], _SCHEDULE], _EITHER]
# It may begin or end at zero, where nothing is learnt.
ScheduledRate = Annotated[Annotated[Rate, _NUMBER] | Annotated[Schedule[Weight], _SCHEDULE], _EITHER]
