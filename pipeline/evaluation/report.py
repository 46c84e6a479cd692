"""What an evaluation found, as plain values."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.digest import digest
from pipeline.shards.manifest import DatasetRef

SCHEMA = 1


@dataclass(frozen=True)
class Figure:
    """`name` says all that the value depends on: figures of different names are not to be compared."""

    name: str
    value: float

    @property
    def key(self) -> str:
        """The short name, for MLflow: `frechet`, `floor_recall`."""
        return self.name.partition("[")[0]


@dataclass(frozen=True)
class EvaluationReport:
    """The figures of a generator against a dataset version's held-out images, and their floor.

    Counts are of images: `generated` for each of `seeds`, `held_out` and `training` on the real side. The floor is
    the same figure of training images in the generator's place. `weights` is the sha256 of the generator's weights,
    `classes` those of the real images where not all of them were compared.
    """

    dataset: DatasetRef
    weights: str
    features: str
    generated: int
    held_out: int
    training: int
    seeds: tuple[int, ...]
    figures: tuple[Figure, ...]
    classes: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Values by short key."""
        return {figure.key: figure.value for figure in self.figures}

    @property
    def digest(self) -> str:
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        values = dataclasses.asdict(self)
        return {**values, "schema": SCHEMA, **{name: list(values[name]) for name in ("seeds", "figures", "classes")}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EvaluationReport":
        """Raises ValueError for anything else than a report of this schema."""
        try:
            values = dict(values)
            if values.pop("schema") != SCHEMA:
                raise ValueError("its schema is another")
            values["dataset"] = DatasetRef(**values["dataset"])
            values["figures"] = tuple(Figure(**figure) for figure in values["figures"])
            listed = {name: tuple(values.get(name, ())) for name in ("seeds", "classes")}
            return cls(**{**values, **listed})
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"not an evaluation report: {error}") from None


@dataclass(frozen=True)
class Naming:
    """What all the names of a report's figures share."""

    dataset: DatasetRef
    features: str
    generated: int
    held_out: int
    training: int
    classes: tuple[str, ...] = ()

    def of_generator(self, key: str, value: float, seeds: tuple[int, ...]) -> Figure:
        """The mean over `seeds`, or the figure of the one."""
        told = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of seeds {', '.join(map(str, seeds))}"
        return self._figure(key, value, f"{self.generated} generated vs {self.held_out} held out, {told}")

    def of_floor(self, key: str, value: float) -> Figure:
        return self._figure(f"floor_{key}", value, f"{self.training} training vs {self.held_out} held out")

    def _figure(self, key: str, value: float, sides: str) -> Figure:
        of = f"{self.dataset.name} {self.dataset.digest[:12]}"
        shown = f" of {', '.join(self.classes)}" if self.classes else ""
        return Figure(f"{key}[{self.features}, {sides}, {of}{shown}]", value)
