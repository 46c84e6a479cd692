"""How much generated images differ, in ratio to real ones."""

import numpy as np
import pytest

from pipeline.shards.manifest import load_manifest
from pipeline.shards.opened import open_view
from pipeline.shards.read import DatasetReader
from pipeline.training.diversity import diversity, real_variances, variances


def images(n: int, low: int = 0, high: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (n, 6, 6, 3), dtype=np.uint8)


def test_a_variance_is_numpys_own_by_class():
    made, labels = images(7), np.array([2, 0, 2, 0, 0, 5, 2])
    found = variances(made, labels)
    assert set(found) == {0, 2}  # one image has none
    for label, value in found.items():
        assert value == pytest.approx(made[labels == label].var(0, ddof=1, dtype=np.float64).mean(), rel=1e-12)
    assert variances(made) == {0: pytest.approx(made.var(0, ddof=1, dtype=np.float64).mean(), rel=1e-12)}


def test_a_constant_generator_has_none_and_real_images_have_all():
    real = variances(images(400))
    assert diversity(variances(images(1).repeat(64, axis=0)), real) == 0
    assert diversity(variances(images(64, seed=1)), real) == pytest.approx(1, abs=0.03)
    assert diversity(variances(images(64, 64, 192, seed=1)), real) == pytest.approx(0.5, abs=0.02)  # half as wide


def test_one_image_a_class_is_none_where_there_are_classes():
    labels = np.arange(64) % 8
    made = images(8)[labels]
    assert diversity(variances(made, labels), variances(images(400), np.arange(400) % 8)) == 0
    assert diversity(variances(made), variances(images(400))) > 0.9  # without them it can not be told


def test_only_classes_that_both_have_are_compared():
    real = {0: 100.0, 1: 100.0, 7: 1e6}
    assert diversity({0: 25.0, 1: 25.0, 3: 1e6}, real) == 0.5
    assert diversity({3: 1.0}, real) is None
    assert diversity({0: 1.0}, {0: 0.0}) is None


def test_real_variances_are_those_of_training_images(trainer):
    """120 images of two classes, of 256 grey levels in halves: a uniform level of 128 has a variance of 1365."""
    storage, dataset = trainer.storage, trainer.dataset
    every, labels = DatasetReader(storage, dataset, "train").read_all()
    assert len(load_manifest(storage, dataset).classes) == 2
    assert real_variances(storage, dataset, 2) == variances(every, labels)
    assert real_variances(storage, dataset, 0) == variances(every)
    assert real_variances(storage, dataset, 2)[0] == pytest.approx(1365, rel=0.1)


def test_of_many_images_some_of_every_class_are_looked_at_in_few_shards(trainer, monkeypatch):
    """In shards of 25, and each shard's by class, as `data.balance` shows them."""
    storage, dataset = trainer.storage, trainer.dataset
    view = open_view(storage, dataset, load_manifest(storage, dataset), trainer.config({"balance": True}).data)
    monkeypatch.setattr("pipeline.training.diversity._MOST", 12)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    read = DatasetReader.read

    def watched(self: DatasetReader, shards: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = read(self, shards, rows)
        seen.append((shards, labels))
        return images, labels

    monkeypatch.setattr(DatasetReader, "read", watched)
    found = real_variances(storage, dataset, 2, view)
    ((shards, labels),) = seen
    assert set(shards.tolist()) == {0} and len(labels) == 16
    assert found.keys() == {0, 1} and min(np.bincount(labels)) >= 3
