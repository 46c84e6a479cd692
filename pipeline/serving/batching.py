"""Rows of different requests in one batch of the generator.

While one batch is being made, what comes in waits, and all of it is the next one: a lone request waits for nobody,
and the more there are, the larger are the batches.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.pictures import to_png
from pipeline.provenance import Provenance
from pipeline.registry.generator import BATCH, Generator
from pipeline.serving.figures import Figures
from pipeline.serving.messages import MOST_SECONDS, MOST_WAITING


class Busy(Exception):
    """More is waiting than may; `seconds` is when to come again."""

    def __init__(self, seconds: int):
        super().__init__(f"too much is waiting; come again in {seconds} s")
        self.seconds = seconds


@dataclass(eq=False)
class _Order:
    """Images `0 .. n - 1` of a seed, of which the first `taken` are made or being made."""

    generator: Generator
    n: int
    seed: int
    labels: list[int] | None
    truncation: float
    done: asyncio.Future[list[bytes]]
    taken: int = 0
    pngs: list[bytes] = field(default_factory=list)

    def text(self, index: int) -> dict[str, str]:
        """What the picture says of itself, word for word as those made offline do."""
        found = self.generator.found
        assert found is not None
        label = self.generator.class_names[self.labels[index]] if self.labels else None
        return Provenance(found.model, found.version, self.seed, self.truncation).of_image(index, label)


class _Part(NamedTuple):
    order: _Order
    indexes: range


class Batcher:
    """Belongs to the event loop that it was made in. The generator runs in a thread of its own."""

    def __init__(self, figures: Figures):
        self._figures = figures
        self._orders: deque[_Order] = deque()
        self._waiting = 0  # images
        self._seconds = 0.0  # an image, lately
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "generator")
        self._loop = asyncio.get_running_loop()
        self._work = self._loop.create_task(self._batches())

    async def pngs(
        self, generator: Generator, n: int, seed: int, labels: list[int] | None, truncation: float
    ) -> list[bytes]:
        """Images `0 .. n - 1` of the seed, as PNG files. Raises Busy at once rather than wait long."""
        seconds = self._waiting * self._seconds
        if self._waiting + n > MOST_WAITING or seconds > MOST_SECONDS:
            raise Busy(max(1, math.ceil(seconds)))
        order = _Order(generator, n, seed, labels, truncation, self._loop.create_future())
        self._orders.append(order)
        self._now_waiting(n)
        self._wake.set()
        try:
            return await order.done
        finally:
            if order in self._orders:  # whoever asked has gone
                self._orders.remove(order)
                self._now_waiting(order.taken - n)

    async def close(self) -> None:
        """What is being made is finished, what waits is not begun."""
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)
        await self._loop.run_in_executor(None, self._thread.shutdown)

    async def _batches(self) -> None:
        while True:
            while not self._orders:
                self._wake.clear()
                await self._wake.wait()
            parts = self._next()
            begun, rows = time.perf_counter(), sum(len(part.indexes) for part in parts)
            try:
                made = await self._loop.run_in_executor(self._thread, _make, parts)
            except Exception as error:
                for order, _ in parts:
                    if not order.done.done():
                        order.done.set_exception(error)
                continue
            seconds = (time.perf_counter() - begun) / rows
            self._seconds += (seconds - self._seconds) / 8 if self._seconds else seconds
            self._figures.batch_rows.observe(rows)
            for part in parts:
                order = part.order
                order.pngs += made[: len(part.indexes)]
                del made[: len(part.indexes)]
                if len(order.pngs) == order.n and not order.done.done():
                    order.done.set_result(order.pngs)

    def _next(self) -> list[_Part]:
        """The oldest order and those after it that can be in one batch with it: of one generator and truncation."""
        parts: list[_Part] = []
        room, first = BATCH, self._orders[0]
        for order in list(self._orders):
            if (order.generator, order.truncation) != (first.generator, first.truncation):
                continue
            count = min(room, order.n - order.taken)
            parts.append(_Part(order, range(order.taken, order.taken + count)))
            order.taken += count
            room -= count
            if order.taken == order.n:
                self._orders.remove(order)
            if not room:
                break
        self._now_waiting(room - BATCH)
        return parts

    def _now_waiting(self, more: int) -> None:
        self._waiting += more
        self._figures.waiting.set(self._waiting)


def _make(parts: Sequence[_Part]) -> list[bytes]:
    first = parts[0].order
    seeds = [order.seed for order, each in parts for _ in each]
    indexes = [index for _, each in parts for index in each]
    labels = [order.labels[index] for order, each in parts if order.labels for index in each] or None
    images = first.generator.sample_rows(seeds, indexes, labels, first.truncation)
    texts = [order.text(index) for order, each in parts for index in each]
    return [to_png(image, text) for image, text in zip(images, texts, strict=True)]
