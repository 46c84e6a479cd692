import numpy as np

from pipeline.evaluation.evaluate import Features, evaluate
from pipeline.evaluation.problems import find_loaded_problem, find_problem, memorised_share


def features(generated: np.ndarray, n: int = 500) -> Features:
    rng = np.random.default_rng(0)
    return Features(rng.normal(size=(n, 6)), rng.normal(size=(n, 6)), (rng.normal(size=(n, 6)), generated))


def problem(found: Features) -> str | None:
    return find_problem(found, memorised_share(found))


def test_new_images_are_no_problem():
    rows = np.random.default_rng(1).normal(size=(500, 6))
    assert problem(features(rows)) is None
    assert memorised_share(features(rows)) < 0.02


def test_copies_of_training_images_are_found_among_others():
    rows = np.random.default_rng(1).normal(size=(500, 6))
    rows[:50] = features(rows).training[:50] + 1e-6
    assert problem(features(rows)) == "memorised"
    assert 0.05 <= memorised_share(features(rows)) < 0.07


def test_one_image_is_found_on_one_seed_alone():
    row = np.random.default_rng(1).normal(size=6)
    noise = np.random.default_rng(2).normal(size=(500, 6)) * 1e-6
    assert problem(features(row + noise)) == "constant"


def test_on_real_digits(digits, plays, training_images, extractor):
    for images, expected in ((training_images[:1], "constant"), (training_images, "memorised")):
        _, found = evaluate(*digits, plays(images), images=300, extractor=extractor)
        assert problem(found) == expected


def test_the_rule_is_two_in_a_hundred_below_the_held_out_images_first_percentile():
    """On a line, where it can be counted: held-out rows lie 1, 2, ... 300 from the only training row."""
    held_out, training = np.arange(1.0, 301.0)[:, None], np.zeros((1, 1))
    near, far = np.full((1, 1), 2.0), np.full((1, 1), 5.0)  # numpy's percentile of 1 to 300 is 3.99

    def with_copies(count: int) -> Features:
        return Features(
            held_out, training, (np.concatenate([near] * count + [far] * (100 - count)), far.repeat(100, 0))
        )

    assert [memorised_share(with_copies(count)) for count in (0, 4, 5)] == [0.0, 0.02, 0.025]
    assert [find_problem(with_copies(4), share) for share in (0.02, 0.0201)] == ["constant", "constant"]
    spread_out = features(np.random.default_rng(1).normal(size=(500, 6)))
    assert [find_problem(spread_out, share) for share in (None, 0.02, 0.0201)] == [None, None, "memorised"]


def test_of_few_held_out_images_nothing_is_said():
    few = features(np.random.default_rng(1).normal(size=(500, 6)), n=199)
    assert memorised_share(few) is None
    assert memorised_share(features(few.generated[1][:200], n=200)) is not None


def test_a_loaded_release_is_to_make_the_candidates_images(plays, training_images):
    images = training_images[:64]
    assert find_loaded_problem(plays(images), plays(images)) is None
    assert find_loaded_problem(plays(np.clip(images, 0, 254) + 1), plays(np.clip(images, 0, 254))) is None
    other = images.copy()
    other[7, 3, 3] ^= 2
    assert "not the candidate's: 2 grey levels apart" in find_loaded_problem(plays(other), plays(images))
    assert "one image" in find_loaded_problem(plays(images[:1]), plays(images))
    assert "not (64, 28, 28, 1)" in find_loaded_problem(plays(images[:, ::2, ::2]), plays(images))
    broken = plays(images)
    broken.network.images[3, 0, 0, 0] = np.nan
    assert "NaN or infinity" in find_loaded_problem(broken, broken)
