"""Evaluations that need not be done twice: the same weights, dataset, seeds and counts give the same figures."""

from dataclasses import asdict

import numpy as np
from safetensors.numpy import load, save

from pipeline.config_values import Extra
from pipeline.digest import digest
from pipeline.evaluation.evaluate import Features, evaluate
from pipeline.evaluation.features import EfficientNetLite0, FeatureExtractor
from pipeline.evaluation.kept import keep
from pipeline.evaluation.real import real_side
from pipeline.evaluation.report import EvaluationReport
from pipeline.evaluation.workers import HERE, Workers
from pipeline.registry.generator import Generator
from pipeline.shards.manifest import DatasetRef, Split, load_manifest
from pipeline.storage import Storage, sha256

_VERSION = 2  # raise it when a change of the code changes the figures, or adds some


def evaluate_once(
    storage: Storage,
    dataset: DatasetRef,
    generator: Generator,
    *,
    images: int,
    seeds: tuple[int, ...],
    only: tuple[str, ...] = (),
    extractor: FeatureExtractor | None = None,
    extra: tuple[Extra, ...] = (),
    workers: Workers = HERE,
) -> tuple[EvaluationReport, Features]:
    """`evaluate`, or what it gave before, checked by its sha256. Raises what `evaluate` raises."""
    extractor = extractor or EfficientNetLite0.for_resolution(load_manifest(storage, dataset).resolution)
    key = {
        "version": _VERSION,
        # By its name too: the report says whose figures they are, and the same images may have two names.
        "dataset": asdict(dataset), "weights": generator.weights_sha256(), "classes": list(generator.class_names),
        "features": extractor.name, "images": images, "seeds": list(seeds),
    }  # fmt: skip
    if only:
        key["only"] = list(only)
    if extra:
        key["extra"] = sorted(extra)
    path = f"evaluations/generated/{digest(key)}"
    if known := _read(storage, path, extractor):
        return known
    report, features = evaluate(
        storage, dataset, generator, images=images, seeds=seeds, extractor=extractor, only=only, extra=extra,
        workers=workers,
    )  # fmt: skip
    data = save({f"generated_{i}": one for i, one in enumerate(features.generated)})
    keep(storage, path, {"report": report.to_dict()}, data)
    return report, features


def _read(storage: Storage, path: str, extractor: FeatureExtractor) -> tuple[EvaluationReport, Features] | None:
    try:
        kept = storage.read_json(f"{path}.json")
        data = storage.read(f"{path}.safetensors")
        if sha256(data) != kept["sha256"]:
            return None
        report, arrays = EvaluationReport.from_dict(kept["report"]), load(data)
        generated = tuple(arrays[f"generated_{i}"] for i in range(len(report.seeds)))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None

    def real(split: Split, count: int) -> np.ndarray:
        return real_side(storage, report.dataset, split, count, extractor, lambda count: None, report.classes).features

    return report, Features(real("held_out", report.held_out), real("train", report.training), generated)
