"""Evaluations that need not be done twice: the same weights, dataset, seeds and counts give the same figures."""

from safetensors.numpy import load, save

from ganmodels.saving import to_bytes
from pipeline.digest import digest
from pipeline.evaluation.evaluate import Features, evaluate
from pipeline.evaluation.features import EfficientNetLite0
from pipeline.evaluation.report import EvaluationReport
from pipeline.registry.generator import Generator
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.storage import Storage, sha256


def evaluate_once(
    storage: Storage, dataset: DatasetRef, generator: Generator, *, images: int, seeds: tuple[int, ...]
) -> tuple[EvaluationReport, Features]:
    """`evaluate`, or what it gave before, checked by its sha256. Raises what `evaluate` raises."""
    weights = sha256(to_bytes(generator.network.state_dict()))
    extractor = EfficientNetLite0.for_resolution(load_manifest(storage, dataset).resolution)
    key = {
        "dataset": dataset.digest, "weights": weights, "classes": list(generator.class_names),
        "features": extractor.name, "images": images, "seeds": list(seeds),
    }  # fmt: skip
    path = f"evaluations/generated/{digest(key)}"
    if known := _read(storage, path):
        return known
    report, features = evaluate(storage, dataset, generator, images=images, seeds=seeds, extractor=extractor)
    arrays = {"held_out": features.held_out, "training": features.training}
    data = save(arrays | {f"generated_{i}": one for i, one in enumerate(features.generated)})
    storage.write(f"{path}.safetensors", data)
    # Written last: without it there is nothing.
    storage.write_json(f"{path}.json", {"sha256": sha256(data), "report": report.to_dict()})
    return report, features


def _read(storage: Storage, path: str) -> tuple[EvaluationReport, Features] | None:
    try:
        kept = storage.read_json(f"{path}.json")
        data = storage.read(f"{path}.safetensors")
        if sha256(data) != kept["sha256"]:
            return None
        report, arrays = EvaluationReport.from_dict(kept["report"]), load(data)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    generated = tuple(arrays[f"generated_{i}"] for i in range(len(report.seeds)))
    return report, Features(arrays["held_out"], arrays["training"], generated)
