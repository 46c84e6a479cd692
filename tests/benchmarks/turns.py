"""Two ways to do the same work, turn about, each in a process of its own, as a run has one."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np

THREADS = 2
Make = Callable[..., Callable[[], Any]]  # at the top of a file, so that another process finds it


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the other side ours is: of the medians, with a 95 % bootstrap interval over pairs."""

    low: float
    value: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio_of(ours: list[float], other: list[float], repeats: int = 10_000) -> Ratio:
    """Of the seconds of each pair."""
    pairs = np.array([ours, other])
    drawn = np.median(pairs[:, np.random.default_rng(0).integers(0, len(ours), (repeats, len(ours)))], axis=2)
    low, high = np.quantile(drawn[1] / drawn[0], [0.025, 0.975])
    return Ratio(float(low), median(other) / median(ours), float(high))


@contextmanager
def side(make: Make, *given: Any) -> Iterator[Callable[[int], Any]]:
    """`make(*given)()` as often as asked, with its time in seconds; asked for 0 times, what it gave when called once.

    Its first call is not counted.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, given), daemon=True)
    process.start()

    def ask(times: int) -> Any:
        here.send(times)
        return here.recv()

    try:
        yield ask
    finally:
        process.kill()
        process.join()


def _serve(pipe: Connection, make: Make, given: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(THREADS)
    act = make(*given)
    act()
    while True:
        times = pipe.recv()
        if not times:
            pipe.send(act())
            continue
        begun = time.perf_counter()
        for _ in range(times):
            act()
        pipe.send(time.perf_counter() - begun)


def race(ours: Callable[[int], float], other: Callable[[int], float], times: int, pairs: int, images: int) -> dict:
    """`pairs` pairs of `times` steps of `images` each; the first pair does not count. All figures, for a report."""
    taken = [(ours(times), other(times)) for _ in range(pairs + 1)][1:]
    mine, others = [a for a, _ in taken], [b for _, b in taken]
    return {
        "ratio": asdict(ratio_of(mine, others)),
        "images_per_second": {"ours": images * times / median(mine), "other": images * times / median(others)},
        "seconds": {"ours": mine, "other": others},
    }


def told(name: str, found: dict) -> str:
    rate = found["images_per_second"]
    return f"{name}: {rate['ours']:,.0f} to {rate['other']:,.0f} images/s, ratio {Ratio(**found['ratio'])}"
