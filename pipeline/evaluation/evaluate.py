"""A generator against images that nothing was trained on."""

from dataclasses import dataclass

import numpy as np

from pipeline.config_values import Extra
from pipeline.errors import UserError
from pipeline.evaluation.bootstrap import frechet_interval
from pipeline.evaluation.features import EfficientNetLite0, FeatureExtractor
from pipeline.evaluation.generated import BadGenerator, labels_like
from pipeline.evaluation.measured import HOW, NEIGHBOURS, Against
from pipeline.evaluation.path_length import HOW as HOW_PATHS
from pipeline.evaluation.path_length import path_length
from pipeline.evaluation.per_class import class_figures
from pipeline.evaluation.real import real_counts, real_side
from pipeline.evaluation.report import ClassRow, EvaluationReport, Naming
from pipeline.evaluation.workers import HERE, Workers
from pipeline.progress import Progress, report
from pipeline.registry.generator import Generator
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.shards.view import chosen_classes
from pipeline.storage import Storage

_HOW = HOW | dict.fromkeys(("frechet_low", "frechet_high"), "1.96 bootstrap deviations")


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
    extra: tuple[Extra, ...] = (),
    workers: Workers = HERE,
) -> tuple[EvaluationReport, Features]:
    """Measures `images` of each seed against the held-out images, and as many training images as those.

    A conditional generator's labels follow the held-out ones. `only` are the classes that real images are of; none:
    all. `extractor` is EfficientNet-Lite0 by default, at the size that suits the dataset. `extra` are figures that
    cost more than the others together. `workers` compute the features. Raises BadGenerator for NaN
    or infinities in weights, images or figures, and UserError where there are too few real images.
    """
    if images <= NEIGHBOURS or not seeds:
        raise UserError(f"cannot measure {images} images of {len(seeds)} seeds; take {NEIGHBOURS + 1} of one at least")
    manifest = load_manifest(storage, dataset)
    shown = chosen_classes(manifest, only)
    only = tuple(shown) if shown != manifest.classes else ()
    held_out_count, training_count = real_counts(storage, dataset, manifest, shown, NEIGHBOURS)
    extractor = extractor or EfficientNetLite0.for_resolution(manifest.resolution)
    paths = images // 2 if "path_length" in extra else 0
    count = _Counter(held_out_count + training_count + images * len(seeds) + 2 * paths)

    held_out = real_side(storage, dataset, "held_out", held_out_count, extractor, count, only, workers.extract)
    training = real_side(storage, dataset, "train", training_count, extractor, count, only, workers.extract)
    labels = labels_like(held_out.labels, shown, generator, images)
    generated = tuple(workers.generate(generator, images, seed, labels, extractor, count) for seed in seeds)

    naming = Naming(dataset, extractor.name, images, held_out_count, training_count, only)
    against = Against(held_out.features, extractor.probabilities)
    means, frechet = against.measure(generated)
    floor, _ = against.measure([training.features])
    how = dict(_HOW)
    rows: tuple[ClassRow, ...] = ()
    if labels is not None:
        places = [shown.index(name) if name in shown else -1 for name in generator.class_names]
        classes = class_figures(shown, held_out, training, generated, np.array(places)[labels])
        rows, means, floor, how = classes.rows, means | classes.generator, floor | classes.floor, how | classes.how
    if "frechet_interval" in extra:
        means["frechet_low"], means["frechet_high"] = frechet_interval(held_out.features, generated, means["frechet"])
    figures = [naming.of_generator(key, value, seeds, how.get(key, "")) for key, value in means.items()]
    figures += [
        naming.of_generator(f"frechet_seed_{seed}", value, (seed,)) for seed, value in zip(seeds, frechet, strict=True)
    ]
    if paths:
        length = path_length(generator, paths, seeds[0], labels, extractor, count)
        figures.append(naming.of_paths("path_length", length, paths, seeds[0], HOW_PATHS))
    figures += [naming.of_floor(key, value, how.get(key, "")) for key, value in floor.items()]
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
        per_class=rows,
    )
    return found, Features(held_out.features, training.features, generated)


class _Counter:
    """Tells of every image done, whichever side it is on."""

    def __init__(self, total: int):
        self.done, self.total = 0, total

    def __call__(self, count: int) -> None:
        self.done += count
        report(Progress("evaluate", self.done, self.total))
