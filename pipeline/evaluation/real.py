"""The real side of every comparison: features of held-out and training images, computed once for each dataset."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from ganmodels.randomness import keyed_seed
from pipeline.digest import digest
from pipeline.errors import UserError
from pipeline.evaluation.features import FeatureExtractor
from pipeline.evaluation.kept import keep, kept
from pipeline.shards.manifest import DatasetRef, Manifest, Split, load_manifest
from pipeline.shards.opened import open_classes
from pipeline.shards.read import DatasetReader
from pipeline.shards.shuffle import permutation
from pipeline.storage import Storage

MOST = 10_000  # real images a side: more would tell little and cost much
ENOUGH_TO_CHOOSE = 2_000  # held-out images beside those that judge a generator, for them to choose it by
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
    there = {split: images_there(storage, dataset, manifest, shown, split) for split in ("held_out", "train")}
    held_out = min(there["held_out"], MOST)
    training = min(there["train"], held_out)
    if training <= neighbours:
        raise TooFewImages(
            f"dataset {dataset.name} has {there['held_out']} held-out and {there['train']}"
            " training images, too few to measure against; add images or raise data.held_out"
        )
    return held_out, training


def choosing_rows(
    storage: Storage, dataset: DatasetRef, manifest: Manifest, shown: list[str], neighbours: int
) -> tuple[int, int]:
    """Which held-out images a run's best checkpoint is chosen by: `(after, count)` in their keyed order.

    Those after the ones that judge it, up to `MOST`, where they are `ENOUGH_TO_CHOOSE`; else the very ones that judge.
    Raises TooFewImages as `real_counts` does.
    """
    judging, _ = real_counts(storage, dataset, manifest, shown, neighbours)
    others = images_there(storage, dataset, manifest, shown, "held_out") - judging
    return (judging, min(others, MOST)) if others >= ENOUGH_TO_CHOOSE else (0, judging)


def images_there(storage: Storage, dataset: DatasetRef, manifest: Manifest, shown: list[str], split: Split) -> int:
    """Of the classes that are `shown`."""
    view = open_classes(storage, dataset, manifest, split, shown)
    return sum(view.counts) if view else manifest.samples[split]


def real_side(
    storage: Storage,
    dataset: DatasetRef,
    split: Split,
    count: int,
    extractor: FeatureExtractor,
    on_batch: Callable[[int], None],
    only: Sequence[str] = (),
    extracting: Callable[..., RealSide] | None = None,
) -> RealSide:
    """`count` images of a split, chosen by a keyed order; from the storage root where they have been before.

    `only` are the classes that they are of, in the dataset's order, and labels are places among these; none: all.
    What is stored there is checked by its sha256, and computed again where it is damaged: by `extracting`, `extract` by
    default.
    """
    wanted = Wanted(dataset, split, count, extractor.name, tuple(only))
    known = stored(storage, wanted)
    if known is not None:
        on_batch(count)
        return known
    side = (extracting or extract)(storage, wanted, range(count), extractor, on_batch)
    store(storage, wanted, side)
    return side


@dataclass(frozen=True)
class Wanted:
    """Which real side: everything that decides on it. `features` is an extractor's name.

    It is `count` images of the split's keyed order, from place `after` on.
    """

    dataset: DatasetRef
    split: Split
    count: int
    features: str
    only: tuple[str, ...] = ()
    after: int = 0

    @property
    def told(self) -> dict[str, Any]:
        told = {"dataset": self.dataset.digest, "split": self.split, "count": self.count, "features": self.features}
        return told | ({"only": list(self.only)} if self.only else {}) | ({"after": self.after} if self.after else {})

    @property
    def path(self) -> str:
        """Without its endings."""
        return f"evaluations/real/{digest(self.told)}"


def stored(storage: Storage, wanted: Wanted) -> RealSide | None:
    """What is stored of it; None if nothing is, or nothing whole."""
    data = kept(storage, wanted.path, wanted.told, "its features are computed again")
    if data is None:
        return None
    tensors = load(data)
    return RealSide(tensors["features"], tensors["labels"])


def store(storage: Storage, wanted: Wanted, side: RealSide) -> None:
    keep(storage, wanted.path, wanted.told, save({"features": side.features, "labels": side.labels}))


def extract(
    storage: Storage, wanted: Wanted, rows: range, extractor: FeatureExtractor, on_batch: Callable[[int], None]
) -> RealSide:
    """Some of its rows, one or more; bit for bit those of all at once where `rows` begin between full batches."""
    features, labels = [], []
    for images, their_labels in rows_of(storage, wanted, rows):
        features.append(extractor(images, on_batch))
        labels.append(their_labels)
    return RealSide(np.concatenate(features), np.concatenate(labels))


def rows_of(storage: Storage, wanted: Wanted, rows: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some of its rows: images uint8 `(n, H, W, C)` and labels `(n,)`, a number of them at a time."""
    reader, chosen, starts = _chosen(storage, wanted)
    for first in range(rows.start, rows.stop, _CHUNK):
        places = chosen[first : min(first + _CHUNK, rows.stop)]
        shards = np.searchsorted(starts, places, side="right") - 1
        yield reader.read(shards, places - starts[shards])


def images_of(storage: Storage, wanted: Wanted, rows: np.ndarray) -> np.ndarray:
    """The images uint8 `(n, H, W, C)` of some of its rows, in their order."""
    reader, chosen, starts = _chosen(storage, wanted)
    places = chosen[rows]
    shards = np.searchsorted(starts, places, side="right") - 1
    return reader.read(shards, places - starts[shards])[0]


def _chosen(storage: Storage, wanted: Wanted) -> tuple[DatasetReader, np.ndarray, np.ndarray]:
    """The split, the places in it that are wanted, and the place where each shard begins."""
    dataset, split = wanted.dataset, wanted.split
    manifest = load_manifest(storage, dataset)
    view = open_classes(storage, dataset, manifest, split, list(wanted.only)) if wanted.only else None
    reader = DatasetReader(storage, dataset, split, view=view)
    order = permutation(len(reader), keyed_seed("evaluation", split))
    chosen = np.sort(order[wanted.after : wanted.after + wanted.count])
    starts = np.cumsum([0, *reader.counts])
    return reader, chosen, starts
