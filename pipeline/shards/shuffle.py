"""Keyed permutations: numbers in an order that depends on a key alone, never on numpy's own generators.

numpy may change its streams between versions, and a run's order must not.
"""

import numpy as np

# Fewer leave traces on counts of a handful: the Feistel halves are then two or three values each.
ROUNDS = 16

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): a bijection of uint64 that scatters neighbours."""
    x = (values ^ (values >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def permutation(count: int, key: int) -> np.ndarray:
    """A keyed permutation of `range(count)`, int64, by sorting: for counts of which the whole is wanted."""
    # A bijection gives no equal values, so it does not matter which sort this is.
    return np.argsort(mixed(np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN + np.uint64(key)))


def permuted(places: np.ndarray, counts: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where each place of `range(count)` goes under its key, one by one: int64; `keys` are uint64, all of one shape.

    A generalised Feistel network on the smallest near-square grid that holds the range, walked on while it
    leaves the range (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains"): hardly ever, since the grid
    exceeds the range by less than one row. Counts are below 2**52.
    """
    out = np.empty(len(places), dtype=np.int64)
    todo, x, n = np.arange(len(places)), places.astype(np.uint64), counts.astype(np.uint64)
    while len(todo):
        x = _network(x, n, keys)
        inside = x < n
        out[todo[inside]] = x[inside]
        outside = ~inside
        todo, x, n, keys = todo[outside], x[outside], n[outside], keys[outside]
    return out


def _network(x: np.ndarray, n: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """One pass of the Feistel network over a grid of `a` columns and `b` rows, `a * b >= n`."""
    a = np.ceil(np.sqrt(n)).astype(np.uint64)
    b = (n + a - np.uint64(1)) // a
    left, right = np.divmod(x, b)
    size, other, keys = a, b, keys.copy()
    for _ in range(ROUNDS):
        keys += _GOLDEN
        h = (right ^ keys) * _MIX_1
        h ^= h >> np.uint64(29)
        h *= _MIX_2
        h >>= np.uint64(32)
        h *= size  # from 0 .. 2**32 - 1 to 0 .. size - 1, without a division
        h >>= np.uint64(32)
        left += h
        left -= size * (left >= size)
        left, right, size, other = right, left, other, size
    return left * b + right
