import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.evaluation.agreement import learn_labels


def clouds(rng: np.random.Generator, n: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, 4, n)
    features = rng.normal(size=(n, 30)) * np.logspace(0, 3, 30)
    features[:, :4] += apart * np.eye(4)[labels] * np.logspace(0, 3, 30)[:4]
    return features.astype(np.float32), labels


def test_it_reads_what_scikit_learn_reads():
    rng = np.random.default_rng(0)
    (x, labels), (other, theirs) = clouds(rng, 600, 2.5), clouds(rng, 600, 2.5)
    reader = learn_labels(x, labels)
    expected = LogisticRegression(max_iter=1000).fit((x - x.mean(0)) / x.std(0), labels)
    accuracy = np.mean(reader.read(other) == theirs)
    assert 0.7 < accuracy < 1
    assert accuracy == pytest.approx(expected.score((other - x.mean(0)) / x.std(0), theirs), abs=0.03)
    assert np.mean(reader.read(other) == expected.predict((other - x.mean(0)) / x.std(0))) > 0.95
    np.testing.assert_array_equal(reader.weight, learn_labels(x, labels).weight)


def test_a_feature_that_never_changes_does_no_harm():
    x, labels = clouds(np.random.default_rng(1), 200, 6)
    x[:, 7] = 3
    assert np.mean(learn_labels(x, labels).read(x) == labels) > 0.95
