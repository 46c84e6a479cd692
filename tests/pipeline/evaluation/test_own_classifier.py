"""Features by a classifier of the dataset's own classes."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

from flows import preflight, stages
from ganmodels.saving import to_bytes
from pipeline.config import Data
from pipeline.errors import UserError
from pipeline.evaluation import learning
from pipeline.evaluation.classifier import Classifier
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.features import as_levels, resized
from pipeline.evaluation.own_classifier import OwnClassifier, own_classifier
from pipeline.recipe import load_config, parse_config
from pipeline.shards import on_ray
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Where it is not tested how well it learns."""
    monkeypatch.setattr(learning, "_FEWEST", 1920)
    monkeypatch.setattr(learning, "_EPOCHS", 1)


def kept(storage: Storage) -> dict[str, bytes]:
    return {path.suffix: path.read_bytes() for path in storage.local_path("evaluations/classifiers").iterdir()}


def sharded(folder, monkeypatch, **keys) -> tuple:
    monkeypatch.setattr(on_ray, "cluster", nullcontext)
    monkeypatch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))
    storage = Storage(str(folder / "root"))
    data = {"source": str(folder / "images"), "resolution": 32, "channels": 1, "held_out": 0.5, **keys}
    return storage, on_ray.shard_images(storage, "squares", Data.model_validate(data)).dataset


def squares(folder, count: int) -> None:
    """Bright ones and dark ones by turns."""
    folder.mkdir(parents=True)
    for number in range(count):
        grey = 10 + number if number % 2 else 245 - number
        Image.new("L", (32, 32), grey).save(folder / f"{number:02}.png")


def test_it_reads_held_out_digits_and_measures_generators(fresh, plays, training_images, heard):
    storage, dataset = fresh
    extractor = own_classifier(storage, dataset)
    assert extractor.name == f"own-classifier-{extractor.sha256[:12]}@28px"
    images, labels = DatasetReader(storage, dataset, "held_out").read_all()
    features = extractor(images)
    assert features.shape == (len(images), 128) and features.dtype == np.float32
    probabilities = extractor.probabilities(features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    accuracy = np.mean(probabilities.argmax(axis=1) == labels)
    told = next(storage.list("evaluations/classifiers")).path.partition(".")[0] + ".json"
    assert storage.read_json(told)["held_out_accuracy"] == pytest.approx(accuracy)
    assert accuracy > 0.95
    assert f"reads {accuracy:.1%} of the held-out ones right" in heard.notes[0]
    assert heard.told[-1][0] == "learn" and heard.told[-1][1] == heard.told[-1][2]

    noise = np.random.default_rng(0).integers(0, 256, (128, 28, 28, 1), dtype=np.uint8)
    real, _ = evaluate(storage, dataset, plays(training_images), images=300, seeds=(0,), extractor=extractor)
    bad, _ = evaluate(storage, dataset, plays(noise), images=300, seeds=(0,), extractor=extractor)
    assert real.metrics["frechet"] < 1.5 * real.metrics["floor_frechet"]
    assert bad.metrics["frechet"] > 20 * real.metrics["frechet"]
    assert 8 < real.metrics["inception_score"] <= 10 and bad.metrics["inception_score"] < 6
    assert real.features == extractor.name and all(extractor.name in figure.name for figure in real.figures)


@pytest.mark.usefixtures("hasty")
def test_it_is_trained_once_and_the_same_weights_come_of_the_same_images(fresh, heard):
    storage, dataset = fresh
    before = torch.random.get_rng_state()
    first = own_classifier(storage, dataset)
    torch.testing.assert_close(torch.random.get_rng_state(), before, rtol=0, atol=0)
    files, told = kept(storage), len(heard.told)
    assert own_classifier(storage, dataset).name == first.name
    assert len(heard.told) == told  # nothing was learned
    storage.delete_folder("evaluations")
    torch.rand(7)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))  # 1 or 2, and not what it was
    assert own_classifier(storage, dataset).weights == first.weights == files[".safetensors"]
    torch.set_num_threads(threads)
    assert kept(storage) == files


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.usefixtures("hasty")
def test_a_damaged_one_is_trained_again(fresh, heard, suffix):
    storage, dataset = fresh
    first = own_classifier(storage, dataset)
    files = kept(storage)
    (path,) = storage.local_path("evaluations/classifiers").glob(f"*.{suffix}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert own_classifier(storage, dataset).weights == first.weights
    assert any("is damaged: the classifier is trained again" in note for note in heard.notes)
    assert kept(storage) == files


@pytest.mark.usefixtures("hasty")
def test_other_classes_have_one_of_their_own(fresh):
    two, every = own_classifier(*fresh, only=("8", "3")), own_classifier(*fresh)
    assert two.name != every.name
    images, labels = DatasetReader(*fresh, "held_out").read_all()
    found = two.probabilities(two(images[np.isin(labels, [3, 8])]))
    assert found.shape[1] == 2
    assert np.mean(found.argmax(axis=1) == (labels[np.isin(labels, [3, 8])] == 8)) > 0.8
    with pytest.raises(UserError, match="are not of two"):
        own_classifier(*fresh, only=("3",))


@pytest.mark.usefixtures("hasty")
def test_images_without_a_label_teach_nothing(tmp_path, monkeypatch):
    squares(tmp_path / "images", 60)
    labels = {f"{number:02}.png": "dark" if number % 2 else "light" for number in range(40)}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    storage, dataset = sharded(tmp_path, monkeypatch, labels=str(tmp_path / "labels.json"))
    found = DatasetReader(storage, dataset, "train").read_all()[1]
    assert 0 < (found >= 0).sum() < len(found)
    own_classifier(storage, dataset)
    (told,) = (entry.path for entry in storage.list("evaluations/classifiers") if entry.path.endswith("json"))
    assert storage.read_json(told)["images"] == (found >= 0).sum()
    assert storage.read_json(told)["held_out_accuracy"] > 0.9


def test_without_labels_it_is_refused_before_any_training(tmp_path, monkeypatch):
    squares(tmp_path / "images", 40)
    recipe = {
        "name": "squares", "data": {"source": str(tmp_path / "images"), "resolution": 32},
        "training": {"batch": 8}, "evaluation": {"features": "own-classifier"},
    }  # fmt: skip
    config = parse_config(recipe, "recipe")
    with pytest.raises(UserError, match=r"learns to tell classes apart.*squares have none"):
        preflight.check_source(config, for_training=True)
    storage, dataset = sharded(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="squares have none"):
        stages.admit(storage, config, dataset)
    assert not storage.exists("datasets/squares/accepted.json")
    with pytest.raises(UserError, match="are not of two"):
        own_classifier(storage, dataset)
    assert not storage.exists("evaluations")
    one = load_config("mnist", ["evaluation.features=own-classifier", 'data.only=["3"]'])
    with pytest.raises(UserError, match="are all of one, 3"):
        preflight.check_source(one, for_training=True)


def test_larger_images_are_resized_and_grey_ones_are_colour_ones_with_equal_channels():
    torch.manual_seed(0)
    network = Classifier(3).eval()
    extractor = OwnClassifier(to_bytes(network.state_dict()), 64)
    images = np.random.default_rng(0).integers(0, 256, (20, 96, 96, 1), dtype=np.uint8)
    with torch.inference_mode():
        expected = network.features((resized(as_levels(images), 64) / 127.5 - 1).expand(-1, 3, -1, -1))
    np.testing.assert_allclose(extractor(images), expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(extractor(images), extractor(images.repeat(3, axis=3)))
    np.testing.assert_array_equal(extractor(images)[:16], extractor(images[:16]))
    assert "@64px" in extractor.name


@pytest.mark.usefixtures("hasty")
def test_a_recipe_asks_for_it_by_name(fresh, plays, training_images):
    storage, dataset = fresh
    config = load_config("mnist", ["evaluation.features=own-classifier", "evaluation.images=200"])
    found = stages.evaluate(storage, config, dataset, plays(training_images))
    assert found.report and found.report.features == own_classifier(storage, dataset).name
    assert found.metrics["inception_score"] > 1
    for key, value in {"sha256": "a" * 64, "pixels": 28, "range": "0-1"}.items():
        with pytest.raises(UserError, match=f"features_{key} has no meaning for own-classifier"):
            load_config("mnist", ["evaluation.features=own-classifier", f"evaluation.features_{key}={value}"])
