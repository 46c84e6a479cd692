"""Which samples make up a batch: a pure function of `(seed, step)`.

An epoch permutes the shards, joins their samples in that order, turns the whole ring by a keyed offset,
and cuts it into `streams` equal spans; what does not divide is left out, another part each epoch. Within
a span, samples are permuted in windows of a few shards, so that a reader touches few shards at once. Row
block `l` of every global batch is the next rows of stream `l`, whichever rank reads that stream.
"""

from functools import lru_cache, partial
from typing import NamedTuple, Protocol

import numpy as np

from ganmodels.randomness import keyed_seed
from pipeline.shards.shuffle import mixed, permutation, permuted

_EPOCHS_KEPT = 8
BLOCK = 1024  # rows of a stream that are worked out at a time

Places = tuple[np.ndarray, np.ndarray]  # shard numbers and rows within them, int64


def streams_of(rank: int, world: int, streams: int) -> range:
    """The streams that a rank reads: consecutive, and as even as can be. Raises ValueError if none."""
    if not 0 < world <= streams:
        raise ValueError(f"{world} workers can not share {streams} streams")
    return range(rank * streams // world, (rank + 1) * streams // world)


class BatchOrder(Protocol):
    """What a reader asks an order."""

    steps_per_look: int

    def look(self, step: int, stream: int) -> tuple[int, Places]:
        """The rows of a stream for the steps around `step`: the first of these, and `(steps, batch / streams)` each."""

    def ahead(self, step: int, stream: int) -> list[int]:
        """Shards that the stream needs from `step` on, soonest first: for `steps_per_look` steps at least."""


class _Epoch(NamedTuple):
    """Shards that are not empty, in the epoch's order; where on the ring each begins; the windows' edges."""

    shards: np.ndarray
    starts: np.ndarray
    edges: np.ndarray
    offset: int
    window_key: np.uint64


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
        self.batch, self.streams, self.window, self.seed = batch, streams, window, seed
        self.rows_per_stream = batch // streams
        self.span = self.steps_per_epoch * self.rows_per_stream
        self.steps_per_look = min(max(1, BLOCK // self.rows_per_stream), self.steps_per_epoch)
        self._epoch = lru_cache(maxsize=_EPOCHS_KEPT)(self._make_epoch)
        self._block = lru_cache(maxsize=2 * streams)(self._make_block)

    def __reduce__(self):  # without what is kept
        keys = {"batch": self.batch, "streams": self.streams, "window": self.window, "seed": self.seed}
        return partial(Order, self.counts.tolist(), **keys), ()

    def rows(self, step: int, stream: int) -> Places:
        """Shard numbers and rows within them, each `(batch / streams,)` int64."""
        first, (shards, rows) = self.look(step, stream)
        return shards[step - first].copy(), rows[step - first].copy()

    def look(self, step: int, stream: int) -> tuple[int, Places]:
        """The rows of at most `steps_per_look` steps at once, none of another epoch."""
        epoch, within = divmod(step, self.steps_per_epoch)
        number, at = divmod(within, self.steps_per_look)
        return step - at, self._block(epoch, stream, number)

    def sequence(self, stream: int, first: int, count: int) -> Places:
        """Places `first .. first + count - 1` of a stream's endless sequence, one epoch after the other."""
        spans, place, stop = [], first, first + count
        while place < stop:
            epoch, within = divmod(place, self.span)
            end = min(self.span, within + stop - place)
            spans.append((epoch, within, end))
            place += end - within
        return self._places(stream, spans)

    def ahead(self, step: int, stream: int) -> list[int]:
        """The shards of the windows that the next `steps_per_look` steps lie in, and of the one after."""
        needed: dict[int, None] = {}
        place = step * self.rows_per_stream
        stop = place + self.steps_per_look * self.rows_per_stream
        last = False
        while not last:
            last = place >= stop
            epoch, within = divmod(place, self.span)
            (at,), (begin,), (end,), _ = self._windows(stream, epoch, within, within + 1)
            of, turn = self._epoch(epoch), at // self.samples * self.samples
            first = np.searchsorted(of.starts, begin - turn, side="right") - 1
            needed |= dict.fromkeys(of.shards[first : np.searchsorted(of.starts, end - turn)].tolist())
            place += int(end - at)
        return list(needed)

    def _make_block(self, epoch: int, stream: int, number: int) -> Places:
        size = self.steps_per_look * self.rows_per_stream
        shards, rows = self._places(stream, [(epoch, number * size, min((number + 1) * size, self.span))])
        return shards.reshape(-1, self.rows_per_stream), rows.reshape(-1, self.rows_per_stream)

    def _places(self, stream: int, spans: list[tuple[int, int, int]]) -> Places:
        """Places `first .. stop - 1` of a stream's span in an epoch, for each `(epoch, first, stop)`."""
        windows = [self._windows(stream, *span) for span in spans]
        places, begin, end, keys = (np.concatenate(column) for column in zip(*windows, strict=True))
        chosen = (begin + permuted(places - begin, end - begin, keys)) % self.samples
        shards, at = np.empty_like(chosen), 0
        for epoch, first, stop in spans:
            part = slice(at, at + stop - first)
            of = self._epoch(epoch)
            slots = np.searchsorted(of.starts, chosen[part], side="right") - 1
            shards[part] = of.shards[slots]
            chosen[part] -= of.starts[slots]
            at = part.stop
        return shards, chosen

    def _windows(self, stream: int, epoch: int, first: int, stop: int) -> tuple[np.ndarray, ...]:
        """Places of a stream's span on the ring, and of each the window: where it begins and ends, and its key."""
        of = self._epoch(epoch)
        low = stream * self.span + of.offset  # on the ring, not yet reduced modulo its length
        places = np.arange(low + first, low + stop)
        turn, on_ring = np.divmod(places, self.samples)
        turn *= self.samples
        right = np.searchsorted(of.edges, on_ring, side="right")
        begin = np.maximum(of.edges[right - 1] + turn, low)
        end = np.minimum(of.edges[right] + turn, low + self.span)
        return places, begin, end, mixed(begin.astype(np.uint64) + of.window_key)

    def _make_epoch(self, epoch: int) -> _Epoch:
        shards = permutation(len(self.counts), keyed_seed(self.seed, epoch, "shards"))
        shards = shards[self.counts[shards] > 0]
        ends = np.cumsum(self.counts[shards])
        starts = np.concatenate([[0], ends[:-1]])
        edges = np.append(starts[:: self.window], self.samples)
        offset = keyed_seed(self.seed, epoch, "offset") % self.samples
        return _Epoch(shards, starts, edges, offset, np.uint64(keyed_seed(self.seed, epoch, "window")))
