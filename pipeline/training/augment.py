"""What a discriminator sees images through, and how strongly: DiffAugment, or ADA."""

from dataclasses import dataclass
from functools import partial

from ganmodels import diffaugment
from ganmodels.ada import pipeline as ada
from ganmodels.ada.plan import Ada, draw
from ganmodels.ada.strength import Heuristic, Strength, adjusted
from ganmodels.objective import AS_THEY_ARE, View, Views
from ganmodels.randomness import generator
from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.scheduled import value_at


@dataclass(frozen=True)
class Augmentation:
    """That of a recipe, for a rank which holds `rows` images of each of `streams` at a time."""

    training: Training
    spec: NetworkSpec
    streams: range
    rows: int

    def strength(self, state: Strength, images: int) -> float:
        """ADA's p once `images` have been seen: the recipe's, or what r_t has led to."""
        setting = self.training.augment_p
        return state.p if setting is None else value_at(setting, images)

    def views(self, step: int, part: int, p: float) -> Views:
        """Of the `part` of a step. Real and generated images have draws of their own, each stream's from a key of its
        own."""
        if self.training.augment == "none":
            return AS_THEY_ARE
        return Views(self._view(p, step, "augment real", part), self._view(p, step, "augment fake", part))

    def after(self, state: Strength, mean_sign: float) -> Strength:
        """Once a step's real logits had signs of this mean over all ranks."""
        training = self.training
        if training.augment != "ada" or training.augment_p is not None:
            return state
        heuristic = Heuristic(training.augment_target, training.augment_images)
        return adjusted(state, heuristic, mean_sign * training.batch, training.batch)

    def _view(self, p: float, step: int, purpose: str, part: int) -> View:
        draws = [generator(self.training.seed, step, purpose, part, stream) for stream in self.streams]
        side = self.spec.resolution
        if self.training.augment == "diffaugment":
            plan = diffaugment.draw(diffaugment.DiffAugment(), self.rows, side, draws)
            return partial(diffaugment.augmented, plan=plan)
        operations = Ada(**self.training.augment_operations)
        return partial(ada.augmented, plan=draw(operations, p, self.rows, self.spec.channels, side, draws))
