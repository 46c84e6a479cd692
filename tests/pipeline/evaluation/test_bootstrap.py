import time

import numpy as np
import pytest

from pipeline.evaluation import bootstrap
from pipeline.evaluation.bootstrap import frechet_difference_interval, frechet_interval, share_interval
from pipeline.evaluation.metrics import frechet_distance, moments


def rows(rng: np.random.Generator, n: int, scale: float, d: int = 12) -> np.ndarray:
    return rng.normal(size=(n, d)) * np.logspace(0, -1, d) * scale


def trial(seed: int, candidate: float, champion: float, n: int = 100, repeats: int = 40) -> tuple[float, float, float]:
    """Real rows of scale 1, against generators of these scales."""
    rng = np.random.default_rng(seed)
    real = rows(rng, n, 1)
    sides = [[rows(rng, n, scale) for _ in range(2)] for scale in (candidate, champion)]
    return frechet_difference_interval(real, *sides, repeats=repeats, seed=seed)


def test_equal_generators_are_not_told_apart_and_unequal_ones_are():
    low, point, high = trial(0, 1.0, 1.0)
    assert low < 0 < high
    assert low <= point <= high
    assert trial(0, 1.0, 1.6)[2] < 0
    assert trial(0, 1.6, 1.0)[0] > 0


def test_it_holds_the_truth_as_often_as_it_says():
    """Scales 0.9 and 1.1 are as far from 1, but the distance of the wider one has the larger bias."""
    base = (np.logspace(0, -1, 12) ** 2).sum()
    for candidate, champion in ((0.9, 1.1), (0.7, 1.0)):
        truth = base * ((candidate - 1) ** 2 - (champion - 1) ** 2)
        intervals = [trial(seed, candidate, champion) for seed in range(40)]
        assert sum(low <= truth <= high for low, _, high in intervals) >= 34


def test_the_same_seed_gives_the_same_interval_on_any_number_of_threads(monkeypatch):
    one = trial(3, 1.0, 1.1, repeats=10)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert trial(3, 1.0, 1.1, repeats=10) == one


@pytest.mark.parametrize(("memory", "most"), [(1, 1), (3 * 16 * (100 + 24) * 12, 3)])
def test_no_more_threads_than_there_is_memory_for(monkeypatch, memory, most):
    active, seen = [], []

    def slowly(*arguments):
        active.append(arguments)
        seen.append(len(active))
        time.sleep(0.002)
        active.pop()
        return moments(*arguments)

    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr(bootstrap, "_MEMORY", memory)
    monkeypatch.setattr(bootstrap, "moments", slowly)
    trial(3, 1.0, 1.1, repeats=10)
    assert max(seen) == most


def test_another_seed_draws_others():
    rng = np.random.default_rng(0)
    real, a, b = (rows(rng, 50, scale) for scale in (1, 1, 1.2))
    first, second = (frechet_difference_interval(real, [a], [b], repeats=10, seed=seed) for seed in (0, 1))
    assert first[1] == second[1]
    assert first[0] != second[0]


def test_the_same_rows_are_drawn_for_both():
    rng = np.random.default_rng(0)
    real, same = rows(rng, 60, 1), [rows(rng, 60, 1.2), rows(rng, 60, 1.2)]
    assert frechet_difference_interval(real, same, list(same), repeats=10, seed=0) == (0, 0, 0)


def test_a_distances_own_interval_is_as_wide_as_it_varies():
    """Two seeds against the same real rows, drawn 40 times: 95 % intervals are 3.92 deviations wide."""
    found, widths = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        real, generated = rows(rng, 100, 1), [rows(rng, 100, 1.4) for _ in range(2)]
        found.append(np.mean([frechet_distance(real, one) for one in generated]))
        low, high = frechet_interval(real, generated, found[-1], seed=seed)
        widths.append(high - low)
        assert low < found[-1] < high
        assert low + high == pytest.approx(2 * found[-1])
    assert np.mean(widths) == pytest.approx(3.92 * np.std(found), rel=0.3)


def test_a_shares_interval_is_the_binomial_one():
    rows = np.arange(1000) % 5 == 0
    low, high = share_interval(rows)
    assert (low, high) == pytest.approx((0.2 - 1.96 * 0.01265, 0.2 + 1.96 * 0.01265), abs=0.003)
    assert share_interval(rows) == (low, high)
    assert share_interval(np.zeros(50)) == (0, 0)


def test_sides_that_cannot_be_paired_are_refused():
    a = np.random.default_rng(0).normal(size=(20, 3))
    for candidate, champion in (([a], [a, a]), ([a], [a[:10]]), ([], [])):
        with pytest.raises(ValueError, match="same number"):
            frechet_difference_interval(a, candidate, champion, repeats=5, seed=0)
    with pytest.raises(ValueError, match="confidence"):
        frechet_difference_interval(a, [a], [a], repeats=5, seed=0, confidence=1.0)
