import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.evaluation.features import EfficientNetLite0
from pipeline.evaluation.remembered import evaluate_once


@pytest.fixture(autouse=True)
def cheap(monkeypatch, extractor):
    monkeypatch.setattr(EfficientNetLite0, "for_resolution", lambda resolution: extractor)


def test_the_second_time_measures_nothing_and_gives_the_same(fresh, plays, training_images, extractor):
    report, features = evaluate_once(*fresh, plays(training_images), images=200, seeds=(0, 1))
    seen = extractor.images
    again, kept = evaluate_once(*fresh, plays(training_images), images=200, seeds=(0, 1))
    assert extractor.images == seen
    assert again == report
    np.testing.assert_array_equal(kept.held_out, features.held_out)
    np.testing.assert_array_equal(kept.training, features.training)
    np.testing.assert_array_equal(kept.generated, features.generated)


def test_the_real_side_is_kept_once_for_all_generators(fresh, plays, training_images):
    evaluate_once(*fresh, plays(training_images), images=200, seeds=(0,))
    (kept,) = fresh[0].local_path("evaluations/generated").glob("*.safetensors")
    assert list(load_file(kept)) == ["generated_0"]


def test_a_report_names_the_dataset_that_was_asked_for(fresh, plays, training_images):
    """The same images under two names have the same digest."""
    storage, dataset = fresh
    twin = dataclasses.replace(dataset, name="twin")
    shutil.copytree(storage.local_path("datasets/digits"), storage.local_path("datasets/twin"))
    try:
        for one in (dataset, twin):
            report, _ = evaluate_once(storage, one, plays(training_images), images=200, seeds=(0,))
            assert report.dataset == one
            assert all(one.name in figure.name for figure in report.figures)
    finally:
        storage.delete_folder("datasets/twin")
