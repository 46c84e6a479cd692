"""The real side of every comparison: features of held-out and training images, computed once for each dataset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from ganmodels.randomness import keyed_seed
from pipeline.digest import digest
from pipeline.errors import UserError
from pipeline.evaluation.features import FeatureExtractor
from pipeline.progress import note
from pipeline.shards.manifest import DatasetRef, Manifest, Split, load_manifest
from pipeline.shards.opened import open_classes
from pipeline.shards.read import DatasetReader
from pipeline.shards.shuffle import permutation
from pipeline.storage import Storage, sha256

MOST = 10_000  # real images a side: more would tell little and cost much
_CHUNK = 1024  # images in memory at a time


@dataclass(frozen=True)
class RealSide:
    """Features `(n, d)` of one split's images, and their labels `(n,)`: -1 where an image has none."""

    features: np.ndarray
    labels: np.ndarray


class TooFewImages(UserError):
    """There is nothing to measure against."""


def real_counts(
    storage: Storage, dataset: DatasetRef, manifest: Manifest, shown: list[str], neighbours: int
) -> tuple[int, int]:
    """How many held-out and training images are compared; raises TooFewImages where they are too few for any figure.

    All that are held out, up to `MOST`, and as many training images; of the classes that are `shown`.
    """
    there = dict[Split, int]()
    for split in ("held_out", "train"):
        view = open_classes(storage, dataset, manifest, split, shown)
        there[split] = sum(view.counts) if view else manifest.samples[split]
    held_out = min(there["held_out"], MOST)
    training = min(there["train"], held_out)
    if training <= neighbours:
        raise TooFewImages(
            f"dataset {dataset.name} has {there['held_out']} held-out and {there['train']}"
            " training images, too few to measure against; add images or raise data.held_out"
        )
    return held_out, training


def real_side(
    storage: Storage,
    dataset: DatasetRef,
    split: Split,
    count: int,
    extractor: FeatureExtractor,
    on_batch: Callable[[int], None],
    only: Sequence[str] = (),
) -> RealSide:
    """`count` images of a split, chosen by a keyed order; from the storage root where they have been before.

    `only` are the classes that they are of, in the dataset's order, and labels are places among these; none: all.
    What is stored there is checked by its sha256, and computed again where it is damaged.
    """
    told: dict[str, Any] = {"dataset": dataset.digest, "split": split, "count": count, "features": extractor.name}
    if only:
        told["only"] = list(only)
    path = f"evaluations/real/{digest(told)}"
    known = _read(storage, path, told)
    if known is not None:
        on_batch(count)
        return known
    view = open_classes(storage, dataset, load_manifest(storage, dataset), split, list(only)) if only else None
    side = _extract(DatasetReader(storage, dataset, split, view=view), split, count, extractor, on_batch)
    data = save({"features": side.features, "labels": side.labels})
    storage.write(f"{path}.safetensors", data)
    # Written last: without it there is nothing.
    storage.write_json(f"{path}.json", {**told, "sha256": sha256(data)})
    return side


def _read(storage: Storage, path: str, told: dict[str, Any]) -> RealSide | None:
    try:
        kept = storage.read_json(f"{path}.json")
        expected = kept["sha256"] if kept == {**told, "sha256": kept["sha256"]} else ""
        data = storage.read(f"{path}.safetensors")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        expected, data = "", b""
    if sha256(data) != expected:
        note(f"{path}.safetensors is damaged: its features are computed again")
        return None
    tensors = load(data)
    return RealSide(tensors["features"], tensors["labels"])


def _extract(
    reader: DatasetReader, split: Split, count: int, extractor: FeatureExtractor, on_batch: Callable[[int], None]
) -> RealSide:
    chosen = np.sort(permutation(len(reader), keyed_seed("evaluation", split))[:count])
    starts = np.cumsum([0, *reader.counts])
    features, labels = [], []
    for first in range(0, count, _CHUNK):
        places = chosen[first : first + _CHUNK]
        shards = np.searchsorted(starts, places, side="right") - 1
        images, their_labels = reader.read(shards, places - starts[shards])
        features.append(extractor(images, on_batch))
        labels.append(their_labels)
    return RealSide(np.concatenate(features), np.concatenate(labels))
