"""Pages in the storage root, each made once.

    <storage>/evaluations/pages/<digest>/index.html      needs nothing else to be read
    <storage>/evaluations/pages/<digest>/<picture>.png
    <storage>/evaluations/pages/<digest>.json            the dataset version that it shows images of

The digest is over what the page tells of. Nothing reads a page but people.
"""

import numpy as np

from pipeline.digest import digest
from pipeline.evaluation.evaluate import Features
from pipeline.evaluation.generated import labels_like
from pipeline.evaluation.metrics import nearest_distances
from pipeline.evaluation.page.curves import Points
from pipeline.evaluation.page.neighbours import Pairs, nearest
from pipeline.evaluation.page.page import Subject, page, pictures
from pipeline.evaluation.real import Wanted, images_of, stored
from pipeline.evaluation.report import EvaluationReport
from pipeline.registry.generator import Generator
from pipeline.shards.manifest import load_manifest
from pipeline.shards.view import chosen_classes
from pipeline.storage import Storage

INDEX = "index.html"
_VERSION = 1  # raise it when pages of older ones should be made again


def page_once(
    storage: Storage,
    title: str,
    report: EvaluationReport,
    features: Features,
    generator: Generator,
    points: Points = (),
    champion: tuple[str, EvaluationReport] | None = None,
) -> tuple[str, dict[str, bytes]]:
    """The folder of the page, in the storage root, and its files by name; made unless they are there.

    `features` are those of `report`, `points` the run's telemetry, `champion` the name and the report of what it is
    compared with.
    """
    told = {
        "version": _VERSION, "title": title, "report": report.digest, "points": [len(points), dict(*points[-1:])],
        "champion": [champion[0], champion[1].digest] if champion else None,
    }  # fmt: skip
    folder = f"evaluations/pages/{digest(told)}"
    if storage.exists(f"{folder}/{INDEX}"):
        return folder, {one.path.removeprefix(f"{folder}/"): storage.read(one.path) for one in storage.list(folder)}
    subject = Subject(
        title, report, generator, points, find_pairs(storage, report, features, generator), champion
    )  # fmt: skip
    shown = pictures(subject)
    files = {f"{name}.png": picture for name, picture in shown.items()} | {INDEX: page(subject, shown)}
    storage.write_json(f"{folder}.json", {"dataset": report.dataset.digest})
    for name, data in files.items():  # the page itself comes last: what has it is whole
        storage.write(f"{folder}/{name}", data)
    return folder, files


def find_pairs(storage: Storage, report: EvaluationReport, features: Features, generator: Generator) -> Pairs | None:
    """Of the generated images of the first seed, those nearest to a training image that was compared, and that image.

    None where the held-out images' labels, which the generated ones have, are stored no more.
    """
    sides = (report.features, report.classes)
    held_out = stored(storage, Wanted(report.dataset, "held_out", report.held_out, *sides))
    if held_out is None:
        return None
    classes = chosen_classes(load_manifest(storage, report.dataset), report.classes)
    labels = labels_like(held_out.labels, classes, generator, report.generated)
    found = nearest(features.generated[0], features.training)
    rows = found.generated.tolist()
    usual = nearest_distances(features.held_out, features.training)
    return Pairs(
        generated=generator.sample_rows(
            [report.seeds[0]] * len(rows), rows, None if labels is None else labels[found.generated]
        ),
        training=images_of(storage, Wanted(report.dataset, "train", report.training, *sides), found.training),
        distances=found.distances,
        usual=float(np.quantile(usual, 0.01)),
    )
