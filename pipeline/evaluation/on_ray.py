"""Features over a Ray cluster of several machines, by tasks of a few batches each.

Tasks begin and end between full batches, of the generator and of the features: so their rows are bit for bit those of
one process. On one machine nothing is gained: there features take every core as it is, and no process has to start.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pipeline.config import Cluster
from pipeline.errors import RunFailed, UserError
from pipeline.evaluation.features import BatchedExtractor, FeatureExtractor
from pipeline.evaluation.generated import generated_features
from pipeline.evaluation.one_thread import one_thread
from pipeline.evaluation.real import RealSide, Wanted, extract
from pipeline.evaluation.workers import HERE, Workers
from pipeline.on_ray import TRIES, Died, cluster, has_room, insisting, one_cluster, other_machines, run_tasks
from pipeline.progress import note
from pipeline.registry.generator import BATCH, Generator, files_of, opened
from pipeline.storage import Storage

_ROWS = 2 * BATCH  # of a task: a multiple of the features' batch too

OnBatch = Callable[[int], None]


@contextmanager
def spread_out(settings: Cluster, trouble: Callable[[], str | None] = lambda: None) -> Iterator[Workers]:
    """Workers on all machines of the Ray cluster that there is, if it has others than this one; else this process.

    The cluster is joined when there is something to compute, and not before; nor where `trouble` says why not to, or
    no CPU is free.
    """
    if settings.workers == 0:
        yield HERE
        return

    @cache
    def others() -> bool:
        why = trouble()
        if why is None:
            try:
                if not other_machines():
                    return False
                if has_room():
                    return True
                why = "the cluster has no CPU free now"
            except UserError as error:
                why = str(error)
        note(f"features are computed on this machine alone: {why}")
        return False

    with one_cluster():
        yield Workers(
            lambda *given: (extract_on_ray if others() else HERE.extract)(*given),
            lambda *given: (generate_on_ray if others() else HERE.generate)(*given),
        )


def extract_on_ray(
    storage: Storage, wanted: Wanted, rows: range, extractor: FeatureExtractor, on_batch: OnBatch
) -> RealSide:
    """As `extract`. Raises RunFailed where a task dies again and again."""
    parts = [_Part(some) for some in _pieces(rows)]
    sides = list(_results(_extract, _Real(storage, wanted, extractor), parts, on_batch))
    return RealSide(*(np.concatenate([getattr(side, key) for side in sides]) for key in ("features", "labels")))


def generate_on_ray(
    generator: Generator,
    images: int,
    seed: int,
    labels: np.ndarray | None,
    extractor: FeatureExtractor,
    on_batch: OnBatch,
) -> np.ndarray:
    """As `generated_features`. Raises RunFailed where a task dies again and again."""
    pieces = _pieces(range(images))
    parts = [_Part(some, None if labels is None else labels[some.start : some.stop]) for some in pieces]
    job = _Generated(*files_of(generator), seed, extractor)
    return np.concatenate(list(_results(_generate, job, parts, on_batch)))


@dataclass(frozen=True)
class _Real:
    storage: Storage
    wanted: Wanted
    extractor: FeatureExtractor


@dataclass(frozen=True)
class _Generated:
    """The generator as a release's files have it."""

    weights: bytes
    document: bytes
    seed: int
    extractor: FeatureExtractor


@dataclass(frozen=True)
class _Part:
    """Which rows, and the labels of generated ones."""

    rows: range
    labels: np.ndarray | None = None


def _pieces(rows: range) -> list[range]:
    return [rows[at : at + _ROWS] for at in range(0, len(rows), _ROWS)]


def _results(function: Callable[[Any, Any], Any], job: Any, parts: list[_Part], on_batch: OnBatch) -> Iterator[Any]:
    with cluster():
        for part, result in zip(parts, insisting(run_tasks, function, job, parts), strict=True):
            if isinstance(result, Died):
                raise RunFailed(
                    f"the task that computes features of {len(part.rows)} images died {TRIES} times;"
                    " it may need more memory than there is: unset RAY_ADDRESS to compute them in this process"
                )
            on_batch(len(part.rows))
            yield result


def _extract(job: _Real, part: _Part) -> RealSide:
    with one_thread():
        return extract(job.storage, job.wanted, part.rows, _ready(job.extractor), _nobody)


def _generate(job: _Generated, part: _Part) -> np.ndarray:
    with one_thread():
        generator, extractor = opened(job.weights, job.document), _ready(job.extractor)
        return generated_features(
            generator, len(part.rows), job.seed, part.labels, extractor, _nobody, start=part.rows.start
        )


_loaded: dict[str, FeatureExtractor] = {}  # of this process, one at most, by its name


def _ready(extractor: FeatureExtractor) -> FeatureExtractor:
    """The first of this name that the process was given, which has its network loaded: features of one name are the
    same."""
    if extractor.name not in _loaded:
        if isinstance(extractor, BatchedExtractor):
            extractor.threads = 1  # a task has one core
        _loaded.clear()
        _loaded[extractor.name] = extractor
    return _loaded[extractor.name]


def _nobody(count: int) -> None: ...
