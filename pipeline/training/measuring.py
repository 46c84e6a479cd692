"""Measures the averaged generator while it trains, on all ranks together: each makes a share of the images.

Image `i` and its features are the same wherever they are made, so the figures do not depend on the number of ranks.
"""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ganmodels.ranks import sum_over_ranks
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.evaluation.evaluate import NEIGHBOURS
from pipeline.evaluation.features import EfficientNetLite0, FeatureExtractor
from pipeline.evaluation.generated import BadGenerator, generated_features, labels_like
from pipeline.evaluation.metrics import Moments, frechet_of_moments, kernel_distance, kernel_within, moments
from pipeline.evaluation.one_thread import one_thread
from pipeline.evaluation.real import RealSide, TooFewImages, Wanted, choosing_rows, extract, store, stored
from pipeline.evaluation.report import Naming
from pipeline.registry.generator import BATCH, Generator
from pipeline.shards.damage import DamagedShard
from pipeline.shards.manifest import load_manifest
from pipeline.shards.view import chosen_classes
from pipeline.storage import Storage
from pipeline.training.plan import RunPlan
from pipeline.training.together import Failed, attempt, gathered, rank_and_world, share

SEED = -1  # no evaluation has it, since theirs are not negative: what is chosen by these images is judged by others
_OTHERS = "by held-out images that judge no release"  # in a figure's name, where there are enough of them
KEYS = ("frechet", "kernel")
# What ends no run. The first will not change, whatever is trained.
_CAUGHT = (TooFewImages, BadGenerator, UserError, DamagedShard, torch.linalg.LinAlgError, OSError)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Real:
    """The held-out images: their labels on every rank, and the rest on rank 0, where it is not None."""

    labels: np.ndarray
    features: np.ndarray
    moments: Moments | None = None
    within: float | None = None


class Measurement:
    """`training.evaluate_images` generated images against the held-out ones: the Frechet and the kernel distance.

    Every rank calls it at the same step, and gets the same. Labels are in the held-out images' proportions. Where so
    many are held out, they are others than those of `evaluate`; else its real side is taken, and a checkpoint is
    chosen by other latents alone. All ranks compute it where nothing is stored of it, and it is kept. `threads` are
    this rank's; `on_batch` is told of every few images that it has done. By default the features are
    EfficientNet-Lite0's.
    """

    def __init__(
        self,
        storage: Storage,
        config: Config,
        plan: RunPlan,
        *,
        threads: int,
        on_batch: Callable[[int], None] = lambda count: None,
        extractor: FeatureExtractor | None = None,
    ):
        self.storage, self.config, self.plan, self.on_batch = storage, config, plan, on_batch
        self.images = config.training.evaluate_images
        self.extractor = extractor or EfficientNetLite0.for_resolution(plan.spec.resolution, threads)
        self.names: dict[str, str] = {}  # the figures' full names by key, once there are any
        self._real: _Real | None = None
        self._never = False

    def __call__(self, generator: nn.Module) -> dict[str, float]:
        """Figures by the short names in `KEYS`; none, with one warning, where they can not be had, which ends no run:
        for NaN or infinities in weights or images, too few held-out images, or storage that can not be read now.

        `generator` and torch's settings are left as they were.
        """
        if self._never:
            return {}
        device = next(generator.parameters()).device
        try:
            # With more, the last bits may be those of their number, which changes with that of the ranks.
            with one_thread():
                self._real = self._real or self._agree_on_real(device)
                return self._figures(self._generated(generator, self._real, device), self._real, device)
        except Failed as failed:
            self._never = failed.kind == 0
            if failed.why:
                log.warning("the generator is not measured%s: %s", "" if self._never else " now", failed.why)
            return {}

    def _agree_on_real(self, device: torch.device) -> _Real:
        wanted, known = attempt(self._look, _CAUGHT, device)
        is_known = bool(sum_over_ranks(torch.tensor(int(known is not None), device=device)))
        rank, _ = rank_and_world()
        if is_known:
            rows, own = range(wanted.count) if known else range(0), known
            self.on_batch(len(rows))
        else:
            rows = share(wanted.count, BATCH)
            own = attempt(lambda: self._extract(wanted, rows), _CAUGHT, device)
        labels = gathered(own.labels[:, None] if own else None, rows, wanted.count, torch.int64, device)[:, 0]
        naming = Naming(self.plan.dataset, self.extractor.name, self.images, wanted.count, 0, wanted.only)
        how = _OTHERS if wanted.after else ""
        self.names = {key: naming.of_generator(key, math.nan, (SEED,), how).name for key in KEYS}
        if known:
            features = known.features
        elif is_known:
            features = np.empty((0, 0), np.float32)
        else:
            features = gathered(own.features if own else None, rows, wanted.count, torch.float32, device)
            if rank == 0:
                self._store(wanted, RealSide(features, labels))
        if rank > 0:
            return _Real(labels, features[:0])
        return _Real(labels, features, moments(features), kernel_within(features))

    def _look(self) -> tuple[Wanted, RealSide | None]:
        """The real side's name, as `evaluate` says such names; rank 0 has what is stored under it."""
        dataset = self.plan.dataset
        manifest = load_manifest(self.storage, dataset)
        shown = chosen_classes(manifest, self.config.data.only)
        after, count = choosing_rows(self.storage, dataset, manifest, shown, NEIGHBOURS)
        only = tuple(shown) if shown != manifest.classes else ()
        wanted = Wanted(dataset, "held_out", count, self.extractor.name, only, after)
        return wanted, stored(self.storage, wanted) if rank_and_world()[0] == 0 else None

    def _extract(self, wanted: Wanted, rows: range) -> RealSide | None:
        return extract(self.storage, wanted, rows, self.extractor, self.on_batch) if rows else None

    def _store(self, wanted: Wanted, side: RealSide) -> None:
        try:
            store(self.storage, wanted, side)
        except OSError:
            log.warning("cannot store %s: it will be computed again", wanted.path, exc_info=True)

    def _generated(self, network: nn.Module, real: _Real, device: torch.device) -> np.ndarray:
        """Features of all images, in order."""
        plan, rows = self.plan, share(self.images, BATCH)
        generator = Generator(copy.deepcopy(network), plan.spec, tuple(plan.classes) if plan.spec.classes else ())
        labels = labels_like(real.labels, plan.classes, generator, self.images)

        def make() -> np.ndarray | None:
            if not rows:
                return None
            theirs = None if labels is None else labels[rows.start : rows.stop]
            return generated_features(generator, len(rows), SEED, theirs, self.extractor, self.on_batch, rows.start)

        return gathered(attempt(make, _CAUGHT, device), rows, self.images, torch.float32, device)

    def _figures(self, generated: np.ndarray, real: _Real, device: torch.device) -> dict[str, float]:
        """Rank 0 computes them, and the others get them."""

        def compute() -> list[float]:
            if real.moments is None:
                return [0.0] * len(KEYS)
            found = [
                frechet_of_moments(real.moments, moments(generated)),
                kernel_distance(real.features, generated, real.within),
            ]
            if not all(map(math.isfinite, found)):
                raise BadGenerator("not_finite", f"its distances are {found}")
            return found

        found = torch.tensor(attempt(compute, _CAUGHT, device), dtype=torch.float64, device=device)
        return dict(zip(KEYS, sum_over_ranks(found).tolist(), strict=True))
