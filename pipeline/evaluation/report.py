"""What an evaluation found, as plain values."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.digest import digest
from pipeline.shards.manifest import DatasetRef

SCHEMA = 1
_LISTS = ("seeds", "figures", "classes", "per_class")


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
class ClassRow:
    """One class of a conditional generator. `generated` images of each seed; None: not measured, as by too few images.

    `frechet` is against the held-out images of the class, the floor that of the training images; `agreement` is the
    share of the generated images in which a classifier of the training images sees this class.
    """

    name: str
    generated: int
    held_out: int
    training: int
    frechet: float | None
    floor_frechet: float | None
    agreement: float | None


@dataclass(frozen=True)
class EvaluationReport:
    """The figures of a generator against a dataset version's held-out images, and their floor.

    Counts are of images: `generated` for each of `seeds`, `held_out` and `training` on the real side. The floor is
    the same figure of training images in the generator's place. `weights` is the sha256 of the generator's weights,
    `classes` those of the real images where not all of them were compared. `per_class` has a conditional
    generator's classes.
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
    per_class: tuple[ClassRow, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Values by short key."""
        return {figure.key: figure.value for figure in self.figures}

    def name_of(self, key: str) -> str:
        """The full name of the figure of this short one; KeyError where there is none."""
        return {figure.key: figure.name for figure in self.figures}[key]

    @property
    def digest(self) -> str:
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        values = dataclasses.asdict(self)
        return {**values, "schema": SCHEMA, **{name: list(values[name]) for name in _LISTS}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EvaluationReport":
        """Raises ValueError for anything else than a report of this schema."""
        try:
            values = dict(values)
            if values.pop("schema") != SCHEMA:
                raise ValueError("its schema is another")
            values["dataset"] = DatasetRef(**values["dataset"])
            values["figures"] = tuple(Figure(**figure) for figure in values["figures"])
            values["per_class"] = tuple(ClassRow(**row) for row in values.get("per_class", ()))
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

    def of_generator(self, key: str, value: float, seeds: tuple[int, ...], how: str = "") -> Figure:
        """The mean over `seeds`, or the figure of the one. `how` it is computed, where the key does not say it."""
        told = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of seeds {', '.join(map(str, seeds))}"
        return self._figure(key, value, f"{self.generated} generated vs {self.held_out} held out, {told}", how)

    def of_paths(self, key: str, value: float, paths: int, seed: int, how: str) -> Figure:
        """Of so many paths between latents of this seed; no real image has a part in it."""
        return self._figure(key, value, f"{paths} paths, seed {seed}", how)

    def of_floor(self, key: str, value: float, how: str = "") -> Figure:
        return self._figure(f"floor_{key}", value, f"{self.training} training vs {self.held_out} held out", how)

    def _figure(self, key: str, value: float, sides: str, how: str) -> Figure:
        told = f"{how}, {self.features}" if how else self.features
        of = f"{self.dataset.name} {self.dataset.digest[:12]}"
        shown = f" of {', '.join(self.classes)}" if self.classes else ""
        return Figure(f"{key}[{told}, {sides}, {of}{shown}]", value)
