"""Some of a dataset's classes, or all in equal shares: pure functions of the shards' indexes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np

from ganmodels.randomness import keyed_seed
from pipeline.config import Data
from pipeline.errors import UserError
from pipeline.shards.index import Index
from pipeline.shards.manifest import Manifest, Shard
from pipeline.shards.order import BLOCK, Order, Places
from pipeline.shards.shuffle import mixed, permuted

_THREADS = 16
_EPOCHS_A_LOOK = 4


def shown_classes(manifest: Manifest, data: Data) -> list[str]:
    """The classes that a run sees, in the dataset's order: a label is a place in this list.

    Raises UserError for a class that the dataset does not have.
    """
    shown = chosen_classes(manifest, data.only)
    if data.balance and not manifest.classes:
        raise UserError("data.balance is true but the images have no classes; put each class in a sub-folder")
    return shown


def chosen_classes(manifest: Manifest, only: Sequence[str]) -> list[str]:
    """Those of `only`, in the dataset's order; all for none. Raises UserError for one that there is not."""
    if unknown := [name for name in only if name not in manifest.classes]:
        there = f"it has {', '.join(manifest.classes)}" if manifest.classes else "it has none"
        raise UserError(f"data.only names {unknown[0]!r}, which is no class of the dataset; {there}")
    return [name for name in manifest.classes if name in only] if only else manifest.classes


class View:
    """The images of `classes` alone, numbered anew: row `r` of a shard is the `r`-th of those that it holds.

    They come in the tar's order, or, `by_class`, those of the first class first. `table` counts them,
    `(shards, classes)`.
    """

    def __init__(self, classes: list[int], by_class: bool, table: np.ndarray):
        self.classes, self.by_class, self.table = np.asarray(classes, dtype=np.int64), by_class, table

    @property
    def counts(self) -> list[int]:
        return self.table.sum(axis=1).tolist()

    def rows(self, label: np.ndarray) -> np.ndarray:
        """The rows of a shard with these labels that are shown, in the view's order."""
        rows = np.flatnonzero(np.isin(label, self.classes))
        return rows[np.argsort(label[rows], kind="stable")] if self.by_class else rows

    def numbers_of(self, label: np.ndarray) -> np.ndarray:
        """The dataset's labels as places in `classes`."""
        return np.searchsorted(self.classes, label)


def make_view(manifest: Manifest, data: Data, shards: list[Shard], index: Callable[[Shard], Index]) -> View | None:
    """What `data.only` and `data.balance` show of these shards; None for everything as it is.

    `index` reads one; all are read, once, many at a time.
    """
    shown = shown_classes(manifest, data)
    return view_of(manifest, shown, data.balance, shards, index) if data.only or data.balance else None


def view_of(
    manifest: Manifest, shown: list[str], by_class: bool, shards: list[Shard], index: Callable[[Shard], Index]
) -> View:
    """What these shards hold of the classes that are `shown`, in the dataset's order."""
    classes = [manifest.classes.index(name) for name in shown]

    def count(shard: Shard) -> np.ndarray:
        label = index(shard).label
        return np.bincount(label[label >= 0], minlength=len(manifest.classes))[classes]

    with ThreadPoolExecutor(_THREADS) as pool:
        table = list(pool.map(count, shards))
    return View(classes, by_class, np.array(table, dtype=np.int64).reshape(len(shards), len(classes)))


class BalancedOrder:
    """Every class as often as every other: each run of a stream's rows as long as there are classes shows each once.

    Each class has an Order of its own, so that its images come once in each of its epochs, and a small class has
    more epochs than a large one. `table` is a View's, `names` its classes. Raises ValueError where a class has
    fewer images than there are streams.
    """

    def __init__(self, table: np.ndarray, names: list[str], *, batch: int, streams: int, window: int, seed: int):
        if batch % streams:
            raise ValueError(f"batch {batch} is not a multiple of {streams} streams")
        for name, count in zip(names, table.sum(axis=0).tolist(), strict=True):
            if count < streams:
                raise ValueError(f"class {name} has {count} images, fewer than the {streams} streams")
        self.table, self.names = table, names
        self.batch, self.streams, self.window, self.seed = batch, streams, window, seed
        self.rows_per_stream = batch // streams
        self._starts = np.cumsum(table, axis=1) - table  # of each class among a shard's rows, as a View sorts them
        self._orders = [
            Order(counts, batch=streams, streams=streams, window=window, seed=keyed_seed(seed, "class", number))
            for number, counts in enumerate(table.T.tolist())
        ]
        # A few epochs of the smallest class at a time: each has to be laid out.
        most = _EPOCHS_A_LOOK * min(order.span for order in self._orders) * len(self._orders)
        self.steps_per_look = max(1, min(BLOCK, most) // self.rows_per_stream)
        self._block = lru_cache(maxsize=2 * streams)(self._make_block)

    def __reduce__(self):
        keys = {"batch": self.batch, "streams": self.streams, "window": self.window, "seed": self.seed}
        return partial(BalancedOrder, self.table, self.names, **keys), ()

    def rows(self, step: int, stream: int) -> Places:
        """Shard numbers and rows of the view within them, each `(batch / streams,)` int64."""
        first, (shards, rows) = self.look(step, stream)
        return shards[step - first].copy(), rows[step - first].copy()

    def look(self, step: int, stream: int) -> tuple[int, Places]:
        """The rows of `steps_per_look` steps at once."""
        number, at = divmod(step, self.steps_per_look)
        return step - at, self._block(stream, number)

    def ahead(self, step: int, stream: int) -> list[int]:
        """Shards that the stream needs from `step` on, those of all classes."""
        turn = step * self.rows_per_stream // len(self._orders)
        return list(dict.fromkeys(shard for order in self._orders for shard in order.ahead(turn, stream)))

    def _make_block(self, stream: int, number: int) -> Places:
        size = self.steps_per_look * self.rows_per_stream
        classes = len(self._orders)
        turn, within = np.divmod(np.arange(number * size, (number + 1) * size), classes)
        keys = mixed(turn.astype(np.uint64) + np.uint64(keyed_seed(self.seed, "classes", stream)))
        chosen = permuted(within, np.full(size, classes), keys)
        shards, rows = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        for one, order in enumerate(self._orders):
            slots = np.flatnonzero(chosen == one)
            if len(slots):  # in each turn once, so they are neighbours in the class's own sequence
                shards[slots], rows[slots] = order.sequence(stream, int(turn[slots[0]]), len(slots))
                rows[slots] += self._starts[shards[slots], one]
        return shards.reshape(-1, self.rows_per_stream), rows.reshape(-1, self.rows_per_stream)
