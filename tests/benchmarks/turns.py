"""Two ways to do the same work, turn about, each in processes of its own, as a run has."""

import ctypes
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

THREADS = 2
_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
Make = Callable[..., Callable[[], Any]]  # at the top of a file, so that another process finds it


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the other side ours is: of the medians, with a 95 % bootstrap interval over pairs."""

    low: float
    value: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio_of(ours: list[float], other: list[float], repeats: int = 10_000, *, of_all: bool = False) -> Ratio:
    """Of the seconds of each pair. With `of_all` of the means: what happens in a few of the turns counts too."""
    pairs = np.array([ours, other])
    middle = np.mean if of_all else np.median
    drawn = middle(pairs[:, np.random.default_rng(0).integers(0, len(ours), (repeats, len(ours)))], axis=2)
    low, high = np.quantile(drawn[1] / drawn[0], [0.025, 0.975])
    return Ratio(float(low), float(middle(other) / middle(ours)), float(high))


@contextmanager
def side(make: Make, *given: Any) -> Iterator[Callable[[int], Any]]:
    """`make(*given)()` as often as asked, with its time in seconds; asked for 0 times, what it gave when called once.

    Its first call is not counted.
    """
    with _started(_serve, [(THREADS, {}, make, given)]) as ((pipe,), _):

        def ask(times: int) -> Any:
            pipe.send(times)
            return pipe.recv()

        yield ask


@contextmanager
def together(make: Make, *given: Any, world: int, joined: bool) -> Iterator[Callable[[int], list[float]]]:
    """As `side`, in `world` processes of one thread at the same time, and so many times in seconds.

    They are the ranks of a gloo group where `joined`; else each is alone.
    """
    with tempfile.TemporaryDirectory(prefix="ganline-gloo-") as folder:
        store = f"file://{Path(folder, 'store')}"
        groups = [{"init_method": store, "rank": r, "world_size": world} if joined else {} for r in range(world)]
        with _started(_serve, [(1, group, make, given) for group in groups]) as (pipes, _):

            def ask(times: int) -> list[float]:
                for pipe in pipes:
                    pipe.send(times)
                return [pipe.recv() for pipe in pipes]

            yield ask


@contextmanager
def loop(run: Callable[..., None], *given: Any) -> Iterator[Callable[[int], float]]:
    """As `side`, of a loop that can not be called a step at a time: `run(*given, at_step)` is to call `at_step(number)`
    before each. Between its turns its process stands still with all its threads, so that what they do is its own time.
    """
    with _started(_serve_loop, [(run, given)]) as ((pipe,), (process,)):
        assert process.pid

        def ask(times: int) -> float:
            os.kill(process.pid, signal.SIGCONT)
            pipe.send(times)
            taken = pipe.recv()
            os.kill(process.pid, signal.SIGSTOP)
            return taken

        yield ask


@contextmanager
def _started(
    serve: Callable[..., None], given: list[tuple[Any, ...]]
) -> Iterator[tuple[list[Connection], list[SpawnProcess]]]:
    """A process of `serve(pipe, *each)` for each of `given`, and our ends of their pipes."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    processes: list[SpawnProcess] = []
    try:
        for each in given:
            here, there = context.Pipe()
            pipes.append(here)
            processes.append(context.Process(target=serve, args=(there, *each), daemon=True))
            processes[-1].start()
            there.close()  # so that one that died is not waited for
        yield pipes, processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _serve(pipe: Connection, threads: int, group: dict[str, Any], make: Make, given: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(threads)
    if group:
        torch.distributed.init_process_group("gloo", **group)
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


def _serve_loop(pipe: Connection, run: Callable[..., None], given: tuple[Any, ...]) -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)  # one that stands still hears of nothing else
    left, begun = 0, None

    def at_step(number: int) -> None:
        nonlocal left, begun
        if not left:
            if begun is not None:
                pipe.send(time.perf_counter() - begun)
            left, begun = pipe.recv(), time.perf_counter()
        left -= 1

    run(*given, at_step)


def race(
    ours: Callable[[int], float], other: Callable[[int], float], times: int, pairs: int, images: int,
    *, of_all: bool = False,
) -> dict:  # fmt: skip
    """`pairs` pairs of `times` steps of `images` each; the first pair does not count. All figures, for a report."""
    taken = [(ours(times), other(times)) for _ in range(pairs + 1)][1:]
    mine, others = [a for a, _ in taken], [b for _, b in taken]
    middle = mean if of_all else median
    return {
        "ratio": asdict(ratio_of(mine, others, of_all=of_all)),
        "images_per_second": {"ours": images * times / middle(mine), "other": images * times / middle(others)},
        "seconds": {"ours": mine, "other": others},
    }


def told(name: str, found: dict) -> str:
    rate = found["images_per_second"]
    return f"{name}: {rate['ours']:,.0f} to {rate['other']:,.0f} images/s, ratio {Ratio(**found['ratio'])}"
