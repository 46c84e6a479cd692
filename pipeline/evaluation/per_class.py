"""Each class of a conditional generator for itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.agreement import learn_labels
from pipeline.evaluation.metrics import frechet_distance
from pipeline.evaluation.real import RealSide
from pipeline.evaluation.report import ClassRow

MINIMUM = 100  # images a side and class: of fewer, a Frechet distance is mostly its bias


@dataclass(frozen=True)
class ClassFigures:
    """`rows` in the dataset's order, and what they come to: figures of the generator and their floors, by key."""

    rows: tuple[ClassRow, ...]
    generator: dict[str, float]
    floor: dict[str, float]
    how: dict[str, str]


def class_figures(
    names: Sequence[str],
    held_out: RealSide,
    training: RealSide,
    generated: Sequence[np.ndarray],
    asked: np.ndarray,
) -> ClassFigures:
    """`asked` `(m,)` are the labels that each of `generated` `(m, d)` was asked for, places among `names`, as all are.

    The Frechet distance of a class is the mean over `generated`, where every side has `MINIMUM` images of it; over all
    such classes it is the mean too. Label agreement is the share of the images whose label is read from them by a
    classifier of the training images; the floor is its own accuracy on the held-out images.
    """
    known = training.labels >= 0
    labels = training.labels[known]
    reader = learn_labels(training.features[known], labels) if len(np.unique(labels)) > 1 else None
    agreed = None if reader is None else np.mean([reader.read(one) == asked for one in generated], axis=0)
    rows = tuple(_row(name, held_out, training, generated, asked, label, agreed) for label, name in enumerate(names))
    measured = [row for row in rows if row.frechet is not None]
    generator, floor, how = dict[str, float](), dict[str, float](), dict[str, str]()
    if measured:
        generator["class_frechet"] = float(np.mean([row.frechet for row in measured]))
        floor["class_frechet"] = float(np.mean([row.floor_frechet for row in measured]))
        how["class_frechet"] = f"mean of {len(measured)} classes with {MINIMUM} images a side"
    if reader is not None and agreed is not None:
        shown = held_out.labels >= 0
        generator["label_agreement"] = float(agreed.mean())
        floor["label_agreement"] = float(np.mean(reader.read(held_out.features[shown]) == held_out.labels[shown]))
        how["label_agreement"] = f"logistic regression on {len(labels)} training images"
    return ClassFigures(rows, generator, floor, how)


def _row(
    name: str,
    held_out: RealSide,
    training: RealSide,
    generated: Sequence[np.ndarray],
    asked: np.ndarray,
    label: int,
    agreed: np.ndarray | None,
) -> ClassRow:
    real, trained = (side.features[side.labels == label] for side in (held_out, training))
    own = asked == label
    counts = {"generated": int(own.sum()), "held_out": len(real), "training": len(trained)}
    agreement = float(agreed[own].mean()) if agreed is not None and own.any() else None
    if min(counts.values()) < MINIMUM:
        return ClassRow(name, **counts, frechet=None, floor_frechet=None, agreement=agreement)
    frechet = float(np.mean([frechet_distance(real, one[own]) for one in generated]))
    return ClassRow(name, **counts, frechet=frechet, floor_frechet=frechet_distance(real, trained), agreement=agreement)
