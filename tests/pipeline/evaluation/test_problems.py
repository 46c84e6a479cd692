import numpy as np

from pipeline.evaluation.evaluate import Features, evaluate
from pipeline.evaluation.problems import find_problem, memorised_share


def features(generated: np.ndarray, n: int = 500) -> Features:
    rng = np.random.default_rng(0)
    return Features(rng.normal(size=(n, 6)), rng.normal(size=(n, 6)), (rng.normal(size=(n, 6)), generated))


def test_new_images_are_no_problem():
    rows = np.random.default_rng(1).normal(size=(500, 6))
    assert find_problem(features(rows)) is None
    assert memorised_share(features(rows)) < 0.02


def test_copies_of_training_images_are_found_among_others():
    rows = np.random.default_rng(1).normal(size=(500, 6))
    rows[:50] = features(rows).training[:50] + 1e-6
    assert find_problem(features(rows)) == "memorised"
    assert 0.05 <= memorised_share(features(rows)) < 0.07


def test_one_image_is_found_on_one_seed_alone():
    row = np.random.default_rng(1).normal(size=6)
    noise = np.random.default_rng(2).normal(size=(500, 6)) * 1e-6
    assert find_problem(features(row + noise)) == "constant"


def test_on_real_digits(digits, plays, training_images, extractor):
    for images, problem in ((training_images[:1], "constant"), (training_images, "memorised")):
        _, found = evaluate(*digits, plays(images), images=300, extractor=extractor)
        assert find_problem(found) == problem
