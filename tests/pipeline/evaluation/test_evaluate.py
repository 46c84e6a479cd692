from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.evaluation import per_class, real
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.generated import BadGenerator, labels_like
from pipeline.evaluation.report import EvaluationReport
from pipeline.progress import watcher
from pipeline.shards.manifest import load_manifest
from pipeline.shards.read import DatasetReader

IMAGES = 400


class Heard:
    def __init__(self) -> None:
        self.progress: list[tuple[str, int, int]] = []
        self.notes: list[str] = []

    def report(self, progress) -> None:
        self.progress.append((progress.stage, progress.done, progress.total))

    def note(self, line: str) -> None:
        self.notes.append(line)


@contextmanager
def heard():
    listener = Heard()
    token = watcher.set(listener)
    yield listener
    watcher.reset(token)


def noise(n: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 28, 28, 1), dtype=np.uint8)


def stored(storage, suffix: str) -> list:
    return sorted(storage.local_path("evaluations/real").glob(f"*.{suffix}"))


def test_only_images_of_the_classes_that_a_run_sees_are_compared(fresh, plays, training_images, extractor):
    """A generator of two classes is not held to what the others look like."""
    storage, dataset = fresh
    images, labels = DatasetReader(storage, dataset, "train").read_all()
    classes = load_manifest(storage, dataset).classes
    two = images[np.isin(labels, [classes.index("3"), classes.index("8")])]
    generator = plays(two, ("3", "8"))
    found, features = evaluate(*fresh, generator, images=200, seeds=(0,), extractor=extractor, only=("8", "3"))
    among_all, _ = evaluate(*fresh, plays(two, ("3", "8")), images=200, seeds=(0,), extractor=extractor)
    assert found.metrics["frechet"] < among_all.metrics["frechet"] / 2
    _, held_out_labels = DatasetReader(storage, dataset, "held_out").read_all()
    there = np.isin(held_out_labels, [classes.index("3"), classes.index("8")]).sum()
    assert found.held_out == len(features.held_out) == there < among_all.held_out
    assert set(generator.network.labels) == {0, 1}
    assert all(figure.name.endswith(" of 3, 8]") for figure in found.figures)
    assert EvaluationReport.from_dict(found.to_dict()) == found
    with pytest.raises(UserError, match=r"data\.only names 'none', which is no class"):
        evaluate(*fresh, generator, images=200, extractor=extractor, only=("none",))


def test_training_images_measure_lowest_and_noise_highest(digits, plays, training_images):
    """With the features that are used, on few images; training images from a generator are near the floor."""
    replay, _ = evaluate(*digits, plays(training_images), images=IMAGES, seeds=(0,))
    blurred = (training_images // 2 + np.roll(training_images, 4, axis=1) // 2).astype(np.uint8)
    worse, _ = evaluate(*digits, plays(blurred), images=IMAGES, seeds=(0,))
    worst, _ = evaluate(*digits, plays(noise()), images=IMAGES, seeds=(0,))
    floor = replay.metrics["floor_frechet"]
    assert replay.features == "efficientnet-lite0@64px-bicubic-aa"
    assert replay.metrics["frechet"] < 1.5 * floor
    assert 2 * floor < worse.metrics["frechet"] < worst.metrics["frechet"] / 2
    for key in ("kernel", "precision", "recall", "coverage"):
        assert abs(replay.metrics[key] - replay.metrics[f"floor_{key}"]) < 0.15
    assert worst.metrics["precision"] == worst.metrics["recall"] == 0
    assert 1 < worst.metrics["inception_score"] < replay.metrics["inception_score"]
    assert replay.metrics["inception_score"] == pytest.approx(replay.metrics["floor_inception_score"], rel=0.05)


def test_a_generator_of_one_image_recalls_nothing(digits, plays, training_images, extractor):
    found, _ = evaluate(*digits, plays(training_images[:1]), images=IMAGES, extractor=extractor)
    assert found.metrics["recall"] == 0
    assert found.metrics["coverage"] < 0.05
    assert found.metrics["frechet"] > 5 * found.metrics["floor_frechet"]


def test_the_report_says_what_was_measured(digits, plays, training_images, extractor):
    storage, dataset = digits
    generator = plays(training_images)
    found, features = evaluate(storage, dataset, generator, images=300, seeds=(4, 9), extractor=extractor)
    held_out = load_manifest(storage, dataset).samples["held_out"]
    assert (found.generated, found.held_out, found.training, found.seeds) == (300, held_out, held_out, (4, 9))
    assert [len(one) for one in features.generated] == [300, 300]
    assert len(features.held_out) == len(features.training) == held_out
    metrics = found.metrics
    assert metrics["frechet"] == (metrics["frechet_seed_4"] + metrics["frechet_seed_9"]) / 2
    names = {"frechet", "kernel", "precision", "recall", "density", "coverage"}
    names |= {"kernel_standard_error", "coverage_low", "coverage_high"}
    assert set(metrics) == names | {f"floor_{name}" for name in names} | {"frechet_seed_4", "frechet_seed_9"}
    for side in ("", "floor_"):
        assert metrics[f"{side}coverage_low"] < metrics[f"{side}coverage"] < metrics[f"{side}coverage_high"]
        assert metrics[f"{side}kernel_standard_error"] > 0
    assert found.per_class == ()
    assert found.name_of("coverage").startswith("coverage[k 5, pixels@7px-area, 300 generated")
    assert found.name_of("floor_kernel_standard_error").startswith("floor_kernel_standard_error[jackknife, ")
    assert len({figure.name for figure in found.figures}) == len(found.figures)
    assert evaluate(storage, dataset, plays(training_images), images=300, seeds=(4, 9), extractor=extractor)[0] == found
    assert evaluate(storage, dataset, plays(noise()), images=300, extractor=extractor)[0].weights != found.weights


def test_the_real_side_is_computed_once(fresh, plays, training_images, extractor):
    first, before = evaluate(*fresh, plays(training_images), images=200, seeds=(0,), extractor=extractor)
    assert extractor.images == 200 + first.held_out + first.training
    second, after = evaluate(*fresh, plays(training_images), images=200, seeds=(0,), extractor=extractor)
    assert extractor.images == 200 + first.held_out + first.training + 200
    assert second == first
    np.testing.assert_array_equal(after.held_out, before.held_out)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_a_damaged_real_side_is_computed_again(fresh, plays, training_images, extractor, suffix):
    storage, _ = fresh
    first, _ = evaluate(*fresh, plays(training_images), images=200, seeds=(0,), extractor=extractor)
    whole = stored(storage, "safetensors")[0].read_bytes()
    for path in stored(storage, suffix):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    extractor.images = 0
    with heard() as listener:
        second, _ = evaluate(*fresh, plays(training_images), images=200, seeds=(0,), extractor=extractor)
    assert second == first
    assert extractor.images == 200 + first.held_out + first.training
    assert len(listener.notes) == 2
    assert "damaged" in listener.notes[0]
    assert stored(storage, "safetensors")[0].read_bytes() == whole


def test_other_features_have_a_real_side_of_their_own(fresh, plays, training_images, extractor):
    storage, _ = fresh
    evaluate(*fresh, plays(training_images), images=200, seeds=(0,), extractor=extractor)
    extractor.name = "others"
    evaluate(*fresh, plays(training_images), images=200, seeds=(0,), extractor=extractor)
    assert len(stored(storage, "safetensors")) == 4


def test_the_training_sample_is_a_part_of_the_training_images_from_every_class(digits, extractor):
    storage, dataset = digits
    side = real.real_side(storage, dataset, "train", 200, extractor, lambda count: None)
    every, labels = DatasetReader(storage, dataset, "train").read_all()
    features = {one.tobytes(): label for one, label in zip(extractor(every, lambda count: None), labels, strict=True)}
    rows = [one.tobytes() for one in side.features]
    assert len(set(rows)) == 200
    assert [features[row] for row in rows] == side.labels.tolist()
    assert set(side.labels.tolist()) == set(range(10))


def test_labels_follow_the_held_out_images(digits, plays, training_images, extractor):
    storage, dataset = digits
    classes = tuple(load_manifest(storage, dataset).classes)
    generator = plays(training_images, classes)
    found, _ = evaluate(storage, dataset, generator, images=1000, seeds=(0,), extractor=extractor)
    _, labels = DatasetReader(storage, dataset, "held_out").read_all()
    asked = Counter(generator.network.labels[:1000])
    for label, count in Counter(labels.tolist()).items():
        assert abs(asked[label] / 1000 - count / found.held_out) < 0.03


def test_each_class_is_measured_for_itself(fresh, plays, extractor, monkeypatch):
    """Two classes swapped: what is measured of all is the same, and these two are far off and misread."""
    monkeypatch.setattr(per_class, "MINIMUM", 20)
    storage, dataset = fresh
    manifest = load_manifest(storage, dataset)
    images, labels = DatasetReader(storage, dataset, "train").read_all()
    _, held_out_labels = DatasetReader(storage, dataset, "held_out").read_all()
    classes = tuple(manifest.classes)
    asked = np.resize(held_out_labels, 320)  # full batches: `plays` then begins anew with each seed
    rows = [np.flatnonzero(labels == label) for label in range(10)]

    def measured(shown: list[int]):
        turns = ((shown[label], turn) for turn, label in enumerate(asked))
        made = np.stack([images[rows[label][turn % len(rows[label])]] for label, turn in turns])
        return evaluate(*fresh, plays(made, classes), images=320, seeds=(0, 1), extractor=extractor)[0]

    right, wrong = measured(list(range(10))), measured([*range(8), 9, 8])
    assert wrong.metrics["frechet"] == pytest.approx(right.metrics["frechet"], rel=0.3)
    assert [row.name for row in right.per_class] == list(classes)
    for label, (good, bad) in enumerate(zip(right.per_class, wrong.per_class, strict=True)):
        assert good.held_out == bad.held_out >= 20
        assert good.agreement > 0.8
        if label >= 8:
            assert bad.frechet > 2 * good.frechet
            assert bad.agreement < 0.2
        else:
            assert bad == good
    assert right.metrics["class_frechet"] == np.mean([row.frechet for row in right.per_class])
    assert right.metrics["floor_class_frechet"] == np.mean([row.floor_frechet for row in right.per_class])
    assert right.metrics["label_agreement"] > 0.9 > wrong.metrics["label_agreement"] + 0.1
    assert 0.8 < right.metrics["floor_label_agreement"] == wrong.metrics["floor_label_agreement"] < 1
    names = {figure.key: figure.name for figure in right.figures}
    assert "mean of 10 classes with 20 images a side" in names["class_frechet"]
    assert "logistic regression on" in names["label_agreement"]
    assert EvaluationReport.from_dict(right.to_dict()) == right


def test_classes_of_few_images_have_no_distance(digits, plays, training_images, extractor):
    """Some 40 held-out images of each digit: fewer than a hundred."""
    classes = tuple(load_manifest(*digits).classes)
    found, _ = evaluate(*digits, plays(training_images, classes), images=200, seeds=(0,), extractor=extractor)
    assert len(found.per_class) == 10
    assert all(row.frechet is row.floor_frechet is None for row in found.per_class)
    assert "class_frechet" not in found.metrics
    assert found.metrics["label_agreement"] < 0.3


def test_what_costs_more_is_measured_where_it_is_asked_for(digits, plays, training_images, extractor):
    extra = ("frechet_interval", "path_length")
    with heard() as listener:
        found, _ = evaluate(
            *digits, plays(training_images), images=100, seeds=(0, 1), extractor=extractor, extra=extra
        )  # fmt: skip
    metrics = found.metrics
    assert metrics["frechet_low"] < metrics["frechet"] < metrics["frechet_high"]
    assert metrics["path_length"] > 0
    (name,) = [figure.name for figure in found.figures if figure.key == "path_length"]
    assert "between latents, epsilon 0.0001" in name and "50 paths, seed 0" in name
    total = found.held_out + found.training + 300
    assert [one for one in listener.progress if one[0] == "evaluate"][-1] == ("evaluate", total, total)


def test_labels_are_matched_by_name_and_unknown_ones_left_out(plays):
    older = plays(noise(4), ("cat", "dog"))
    labels = labels_like(np.array([2, 0, -1, 1, 1]), ["ant", "cat", "dog"], older, 5)
    assert labels is not None
    assert labels.tolist() == [1, 0, 0, 1, 0]
    assert labels_like(np.array([0, -1]), ["ant", "cat"], older, 5) is None
    assert labels_like(np.array([0, 1]), ["cat", "dog"], plays(noise(4)), 5) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_generator_whose_weights_are_not_finite_is_refused(digits, plays, training_images, extractor, value):
    generator = plays(training_images)
    generator.network.images[3, 0, 0, 0] = value
    with pytest.raises(BadGenerator, match="weights are not finite: images") as error:
        evaluate(*digits, generator, images=100, extractor=extractor)
    assert error.value.reason == "not_finite"


def test_a_generator_that_overflows_is_refused(digits, plays, training_images, extractor):
    """Finite weights, and NaN pixels in one late image alone: as uint8 they would be grey levels like any other."""
    generator = plays(training_images)

    class Overflows(torch.nn.Module):
        def forward(self, z, labels, truncation=1.0):
            made = generator.network(z, labels)
            return made if generator.network.next < 128 else made * torch.where(torch.arange(64) == 7, torch.nan, 1)[
                :, None, None, None
            ]  # fmt: skip

    broken = type(generator)(Overflows(), generator.spec)
    with pytest.raises(BadGenerator, match="images are not finite") as error:
        evaluate(*digits, broken, images=200, extractor=extractor)
    assert error.value.reason == "not_finite"
    assert not broken.network._forward_hooks


def test_progress_counts_every_image_once(fresh, plays, training_images, extractor):
    for _ in range(2):  # computed, then from the storage root
        with heard() as listener:
            found, _ = evaluate(*fresh, plays(training_images), images=200, extractor=extractor)
        total = found.held_out + found.training + 400
        assert listener.progress[-1] == ("evaluate", total, total)
        assert [done for _, done, _ in listener.progress] == sorted({done for _, done, _ in listener.progress})


def test_what_cannot_be_measured_is_a_user_error(digits, plays, training_images, extractor, monkeypatch):
    generator = plays(training_images)
    with pytest.raises(UserError, match="cannot measure 3 images"):
        evaluate(*digits, generator, images=3, extractor=extractor)
    monkeypatch.setattr(real, "MOST", 3)
    with pytest.raises(UserError, match=r"raise data\.held_out"):
        evaluate(*digits, generator, images=100, extractor=extractor)
