"""Which samples make up a batch: a pure function of `(seed, step)`.

An epoch permutes the shards, joins their samples in that order, turns the whole ring by a keyed offset,
and cuts it into `streams` equal spans; what does not divide is left out, another part each epoch. Within
a span, samples are permuted in windows of a few shards, so that a reader touches few shards at once. Row
block `l` of every global batch is the next rows of stream `l`, whichever rank reads that stream.
"""

from functools import lru_cache

import numpy as np

from ganmodels.randomness import keyed_seed

_EPOCHS_KEPT = 2
_WINDOWS_KEPT = 64


@lru_cache(maxsize=_WINDOWS_KEPT)
def permutation(count: int, key: int) -> np.ndarray:
    """A keyed permutation of `range(count)`, int64.

    Sorts splitmix64 values (Steele, Lea & Flood 2014) rather than asking numpy to shuffle: numpy may
    change its streams between versions, and a run's order must not.
    """
    with np.errstate(over="ignore"):
        x = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        order = np.argsort(x ^ (x >> np.uint64(31)), kind="stable")
    order.setflags(write=False)
    return order


def streams_of(rank: int, world: int, streams: int) -> range:
    """The streams that a rank reads: consecutive, and as even as can be. Raises ValueError if none."""
    if not 0 < world <= streams:
        raise ValueError(f"{world} workers can not share {streams} streams")
    return range(rank * streams // world, (rank + 1) * streams // world)


class Order:
    """The order over shards of the given sample counts.

    `batch` is global and a multiple of `streams`. Raises ValueError if one batch can not be filled.
    """

    def __init__(self, counts: list[int], *, batch: int, streams: int, window: int, seed: int):
        if batch % streams:
            raise ValueError(f"batch {batch} is not a multiple of {streams} streams")
        self.counts = np.asarray(counts, dtype=np.int64)
        self.samples = int(self.counts.sum())
        self.steps_per_epoch = self.samples // batch
        if not self.steps_per_epoch:
            raise ValueError(f"{self.samples} images do not fill one batch of {batch}")
        self.streams, self.window, self.seed = streams, window, seed
        self.rows_per_stream = batch // streams
        self._epoch = lru_cache(maxsize=_EPOCHS_KEPT)(self._make_epoch)

    def rows(self, step: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        """Shard numbers and rows within them, each `(batch / streams,)` int64."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        shards, starts, offset = self._epoch(epoch)
        span = self.steps_per_epoch * self.rows_per_stream
        first = stream * span + offset  # on the ring, not yet reduced modulo its length
        wanted = first + step_in_epoch * self.rows_per_stream
        parts = [
            low + permutation(high - low, keyed_seed(self.seed, epoch, "window", low))[begin - low : end - low]
            for low, high, begin, end in self._windows(starts, first, first + span, wanted)
        ]
        places = np.concatenate(parts) % self.samples
        slots = np.searchsorted(starts, places, side="right") - 1
        return shards[slots], places - starts[slots]

    def _windows(self, starts, low, high, wanted):
        """The windows, clipped to the span, that hold the wanted places: `(low, high, begin, end)` each."""
        edges = np.append(starts[:: self.window], self.samples)
        place, stop = wanted, wanted + self.rows_per_stream
        while place < stop:
            turn, within = divmod(place, self.samples)
            right = int(np.searchsorted(edges, within, side="right"))
            left_edge = max(low, int(edges[right - 1]) + turn * self.samples)
            right_edge = min(high, int(edges[right]) + turn * self.samples)
            end = min(stop, right_edge)
            yield left_edge, right_edge, place, end
            place = end

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        shards = permutation(len(self.counts), keyed_seed(self.seed, epoch, "shards"))
        shards = shards[self.counts[shards] > 0]
        starts = np.concatenate([[0], np.cumsum(self.counts[shards])[:-1]])
        return shards, starts, keyed_seed(self.seed, epoch, "offset") % self.samples
