"""Permutations are checked for what they are, and against draws: chi-square over many keys."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from pipeline.shards.shuffle import permutation, permuted

GOLDEN_PERMUTATION = [5, 4, 7, 3, 1, 0, 6, 2]
GOLDEN_PERMUTED = [[2, 0, 0], [57, 84, 89], [1538, 14910, 11726]]


def all_of(count: int, keys: np.ndarray) -> np.ndarray:
    """The permutation of `range(count)` under each key, `(keys, count)`."""
    places = np.tile(np.arange(count), len(keys))
    return permuted(places, np.full(len(places), count), np.repeat(keys, count)).reshape(len(keys), count)


def random_keys(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**63, count, dtype=np.uint64)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
def test_every_number_comes_once(count, key):
    assert sorted(all_of(count, np.array([key], dtype=np.uint64))[0].tolist()) == list(range(count))
    assert sorted(permutation(count, key).tolist()) == list(range(count))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 2**63 - 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_a_place_goes_where_it_goes_whatever_is_asked_beside_it(asked):
    counts = np.array([count for count, _, _ in asked])
    keys = np.array([key for _, key, _ in asked], dtype=np.uint64)
    places = np.minimum((counts * [share for _, _, share in asked]).astype(np.int64), counts - 1)
    together = permuted(places, counts, keys)
    assert ((together >= 0) & (together < counts)).all()
    assert [int(permuted(p[None], c[None], k[None])[0]) for p, c, k in zip(places, counts, keys, strict=True)] == (
        together.tolist()
    )


def chi_square(found: np.ndarray, expected: float, freedom: int) -> float:
    """The chance of counts as uneven as these or more so."""
    return float(chi2.sf(((found - expected) ** 2 / expected).sum(), freedom))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 8, 12, 16, 17, 30])
def test_every_place_is_as_likely_as_any_other_over_keys(count):
    keys = 6000
    shown = all_of(count, random_keys(keys, count))
    table = np.stack([np.bincount(shown[:, place], minlength=count) for place in range(count)])
    assert chi_square(table, keys / count, (count - 1) ** 2) > 1e-4
    if count > 2:  # and so is each pair of places for two neighbours
        pairs = np.bincount(shown[:, 0] * count + shown[:, 1], minlength=count * count).reshape(count, count)
        assert not pairs.diagonal().any()
        apart = pairs[~np.eye(count, dtype=bool)]
        assert chi_square(apart, keys / len(apart), len(apart) - 1) > 1e-4


def test_neighbouring_keys_and_places_give_unrelated_orders():
    count = 2000
    orders = all_of(count, np.arange(200, dtype=np.uint64))
    between_keys = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(orders)]
    within = [np.corrcoef(order[:-1], order[1:])[0, 1] for order in orders]
    for found in (between_keys, within):  # of independent permutations: normal, with deviation 1 / sqrt(count)
        assert kstest(np.array(found) * np.sqrt(count), "norm").pvalue > 1e-3


def test_the_permutations_are_those_that_earlier_runs_had():
    assert permutation(8, 2**63 - 25).tolist() == GOLDEN_PERMUTATION
    keys = np.array([0, 1, 2**63 - 25], dtype=np.uint64)
    assert [permuted(np.arange(3), np.full(3, n), keys).tolist() for n in (3, 100, 20_000)] == GOLDEN_PERMUTED
