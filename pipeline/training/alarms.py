"""Warnings of a run that trains on but learns nothing any more, from the figures of a telemetry point."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.config import Training

# Of what guessing costs. The `mnist` preset stays above 0.28 in every loss, and without a penalty above 0.05; where
# its generator is held still, the discriminator is below 0.035 within 8,000 images, R1 and all (least squares: 0.07).
_SATURATED = 0.04
# Of real images' deviation. The `mnist` preset has 0.2 after 2,000 images, and 0.8 to 1 from 8,000 on.
_COLLAPSED = 0.1
_BEGUN = 10_000  # images: an untrained generator gives much the same image for every latent

# The mean of each loss for the best discriminator that can tell nothing, so that real and fake have one logit.
# A Wasserstein critic has none: its loss has no lower end to come near to.
_GUESSING = {
    "saturating": 2 * math.log(2),
    "non_saturating": 2 * math.log(2),
    "least_squares": 0.25,
    "hinge": 2.0,
    "relativistic": math.log(2),
    "relativistic_average": 2 * math.log(2),
}


@dataclass(frozen=True)
class Alarm:
    """`code` is for programs, `line` for people."""

    code: Literal["discriminator_saturated", "collapsed"]
    line: str


def alarms(means: Mapping[str, float], images: int, training: Training) -> list[Alarm]:
    """What is wrong with a point's figures, after so many images: `loss_d` as in `objective.SUMS`, and `diversity`.

    What a point does not have is not judged.

    A discriminator that is nearly never wrong has no slope left that tells the generator where to go, or under the
    non-saturating loss an unstable one (Arjovsky & Bottou 2017, "Towards Principled Methods for Training Generative
    Adversarial Networks", theorems 2.4 and 2.6). Its loss then nears its lower end. Penalties are part of `loss_d`
    and only add to it: they can hide an alarm, not cause one.
    """
    found = []
    guessing, floor = _GUESSING.get(training.loss), _floor(training.label_smoothing)
    loss = means.get("loss_d")
    if loss is not None and guessing is not None and (loss - floor) < _SATURATED * (guessing - floor):
        line = (
            f"the discriminator tells real from generated images nearly without fail (loss {loss:.3g}, guessing costs"
            f" {guessing:.3g}), so that the generator learns little; raise training.r1, or set training.augment"
        )
        found.append(Alarm("discriminator_saturated", line))
    varied = means.get("diversity")
    if varied is not None and images >= _BEGUN and varied < _COLLAPSED:
        line = (
            f"generated images hardly differ from each other (diversity {varied:.3g}, real images have 1); raise"
            " training.r1, or lower training.learning_rate"
        )
        found.append(Alarm("collapsed", line))
    return found


def _floor(label_smoothing: float) -> float:
    """The least that a loss on smoothed labels can be: their entropy."""
    shares = (label_smoothing, 1 - label_smoothing)
    return -sum(share * math.log(share) for share in shares if share > 0)
