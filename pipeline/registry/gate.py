"""Whether a candidate becomes the champion: a pure function of figures that others have measured."""

import math
from dataclasses import dataclass

MINIMUM_SEEDS = 2

_PROBLEMS = {
    "not_finite": "its weights or images are not all finite: the training diverged",
    "constant": "it returns one image, whatever the latent",
    "memorised": "it returns training images",
}


@dataclass(frozen=True)
class Decision:
    """Whether `champion` moves to a version, and why.

    `reason` is one line for people, `rule` the name of the rule that decided, `figures` what it was decided
    on, `against` the champion's version at that moment (None: there was none).
    """

    promoted: bool
    reason: str
    rule: str
    figures: dict[str, float]
    against: int | None


def decide(
    *,
    champion: int | None,
    candidate_version: int,
    interval: tuple[float, float, float] | None,
    images_generated: int,
    images_held_out: int,
    minimum_images: int = 2000,
    problem: str | None = None,
    seeds: int,
    distance: float | None = None,
) -> Decision:
    """The first rule that applies decides.

    `interval` is low end, point and high end of the paired bootstrap's 95 % interval of FD(candidate) -
    FD(champion), FD being a Frechet distance (lower is better); None if it was not measured. The counts are
    images a side, `seeds` generation seeds, `problem` what is wrong with the candidate alone (`not_finite`,
    `constant`, `memorised`, or words of your own), `distance` FD(candidate), for the reason only.
    """
    figures: dict[str, float] = {
        "images_generated": images_generated,
        "images_held_out": images_held_out,
        "minimum_images": minimum_images,
        "seeds": seeds,
    }
    if distance is not None:
        figures["distance"] = distance
    if interval is not None:
        figures |= zip(("difference_low", "difference", "difference_high"), interval, strict=True)

    def decision(promoted: bool, rule: str, reason: str) -> Decision:
        return Decision(promoted, " ".join(reason.split()), rule, figures, champion)

    if problem is not None:
        return decision(False, "problem", f"the candidate was refused: {_PROBLEMS.get(problem, problem)}")
    if seeds < MINIMUM_SEEDS:
        return decision(False, "seeds", f"{seeds} generation seed is too few to judge; measure with {MINIMUM_SEEDS}")
    if champion is None:
        return decision(True, "no_champion", "there was no champion")
    if champion == candidate_version:
        return decision(True, "champion_already", f"version {champion} is the champion already")
    if images_generated < minimum_images:
        few = f"{images_generated:,} generated images are too few to judge, {minimum_images:,} are needed"
        return decision(False, "images", f"{few}; see evaluation.minimum_images")
    if images_held_out < minimum_images:
        few = f"{images_held_out:,} held-out images are too few to judge, {minimum_images:,} are needed"
        return decision(False, "images", f"{few}; raise data.held_out, or lower evaluation.minimum_images")
    if interval is None:
        return decision(False, "not_measured", f"the difference from version {champion} was not measured")
    if not all(math.isfinite(figure) for figure in figures.values()):
        wrong = ", ".join(f"{name} {figure}" for name, figure in figures.items() if not math.isfinite(figure))
        return decision(False, "not_finite", f"not every figure is a finite number: {wrong}")
    low, point, high = interval
    return decision(high < 0, "interval", _compared(distance, low, point, high, champion))


def _compared(distance: float | None, low: float, point: float, high: float, champion: int) -> str:
    better = point < 0
    # Ends in the direction of the word: a negative end says that the opposite is possible too.
    ends = (-high, -low) if better else (low, high)
    subject = "" if distance is None else f"Frechet distance {distance:.4g}: "
    measured = (
        f"{subject}{abs(point):.3g} {'better' if better else 'worse'} than version {champion}"
        f" (95 % interval {ends[0]:.3g} to {ends[1]:.3g})"
    )
    return measured + (", which may be chance" if better and high >= 0 else "")
