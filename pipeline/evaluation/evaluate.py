"""A generator against images that nothing was trained on."""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import UserError
from pipeline.evaluation.features import EfficientNetLite0, FeatureExtractor
from pipeline.evaluation.generated import BadGenerator, generated_features, labels_like
from pipeline.evaluation.metrics import frechet_distance, kernel_distance, precision_recall
from pipeline.evaluation.real import real_counts, real_side
from pipeline.evaluation.report import EvaluationReport, Figure, Naming
from pipeline.progress import Progress, report
from pipeline.registry.generator import Generator
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.shards.view import chosen_classes
from pipeline.storage import Storage

NEIGHBOURS = 3


@dataclass(frozen=True)
class Features:
    """What the figures were computed from, float32 `(n, d)` each; `generated` has one for each seed."""

    held_out: np.ndarray
    training: np.ndarray
    generated: tuple[np.ndarray, ...]


def evaluate(
    storage: Storage,
    dataset: DatasetRef,
    generator: Generator,
    *,
    images: int = 2000,
    seeds: tuple[int, ...] = (0, 1),
    extractor: FeatureExtractor | None = None,
    only: tuple[str, ...] = (),
) -> tuple[EvaluationReport, Features]:
    """Measures `images` of each seed against the held-out images, and as many training images as those.

    A conditional generator's labels follow the held-out ones. `only` are the classes that real images are of; none:
    all. `extractor` is EfficientNet-Lite0 by default, at the size that suits the dataset. Raises BadGenerator for NaN
    or infinities in weights, images or figures, and UserError where there are too few real images.
    """
    if images <= NEIGHBOURS or not seeds:
        raise UserError(f"cannot measure {images} images of {len(seeds)} seeds; take {NEIGHBOURS + 1} of one at least")
    manifest = load_manifest(storage, dataset)
    shown = chosen_classes(manifest, only)
    only = tuple(shown) if shown != manifest.classes else ()
    held_out_count, training_count = real_counts(storage, dataset, manifest, shown, NEIGHBOURS)
    extractor = extractor or EfficientNetLite0.for_resolution(manifest.resolution)
    count = _Counter(held_out_count + training_count + images * len(seeds))

    held_out = real_side(storage, dataset, "held_out", held_out_count, extractor, count, only)
    training = real_side(storage, dataset, "train", training_count, extractor, count, only)
    labels = labels_like(held_out.labels, shown, generator, images)
    generated = tuple(generated_features(generator, images, seed, labels, extractor, count) for seed in seeds)

    naming = Naming(dataset, extractor.name, images, held_out_count, training_count, only)
    figures = _of_generator(naming, held_out.features, generated, seeds)
    figures += [naming.of_floor(key, value) for key, value in _measure(held_out.features, training.features).items()]
    for figure in figures:
        if not np.isfinite(figure.value):
            raise BadGenerator("not_finite", f"{figure.name} is {figure.value}")
    found = EvaluationReport(
        dataset=dataset,
        weights=generator.weights_sha256(),
        features=extractor.name,
        generated=images,
        held_out=held_out_count,
        training=training_count,
        seeds=tuple(seeds),
        figures=tuple(figures),
        classes=only,
    )
    return found, Features(held_out.features, training.features, generated)


def _of_generator(
    naming: Naming, real: np.ndarray, generated: tuple[np.ndarray, ...], seeds: tuple[int, ...]
) -> list[Figure]:
    """The mean of each metric over the seeds, and the Frechet distance of each."""
    each = [_measure(real, features) for features in generated]
    means = {key: float(np.mean([measured[key] for measured in each])) for key in each[0]}
    figures = [naming.of_generator(key, value, seeds) for key, value in means.items()]
    for seed, measured in zip(seeds, each, strict=True):
        figures.append(naming.of_generator(f"frechet_seed_{seed}", measured["frechet"], (seed,)))
    return figures


def _measure(real: np.ndarray, other: np.ndarray) -> dict[str, float]:
    precision, recall = precision_recall(real, other, NEIGHBOURS)
    return {
        "frechet": frechet_distance(real, other),
        "kernel": kernel_distance(real, other),
        "precision": precision,
        "recall": recall,
    }


class _Counter:
    """Tells of every image done, whichever side it is on."""

    def __init__(self, total: int):
        self.done, self.total = 0, total

    def __call__(self, count: int) -> None:
        self.done += count
        report(Progress("evaluate", self.done, self.total))
