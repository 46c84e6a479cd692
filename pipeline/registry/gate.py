"""Whether a candidate becomes the champion: a pure function of figures that others have measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

MINIMUM_SEEDS = 2

# Of fewer held-out images neither a percentile nor a share of them says much.
ENOUGH_HELD_OUT = 200

_PROBLEMS = {
    "not_finite": "its weights or images are not all finite: the training diverged",
    "constant": "it returns one image, whatever the latent",
    "memorised": "it returns training images",
}


class Limit(Protocol):
    """Bounds of a figure, both allowed themselves; None: there is none on that side."""

    @property
    def least(self) -> float | None: ...

    @property
    def most(self) -> float | None: ...


@dataclass(frozen=True)
class Rules:
    """What a recipe asks for: images a side to replace a champion, a share of the held-out images that are covered
    (0: none), and limits on figures by their short key."""

    minimum_images: int = 2000
    minimum_coverage: float = 0.0
    limits: Mapping[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What is known of a candidate.

    Counts are images a side, `seeds` generation seeds. `metrics` are its figures by short key, none where it could
    not be measured, and `memorised` the share of its images that are nearer to a training image than 99 % of the
    held-out ones, None where they are too few to say. `problem` is what is wrong with it by itself (`not_finite`,
    `constant`, `memorised`, or words of your own), `smoke` what is wrong, in words, with a sample of the artifact.
    """

    images_generated: int
    images_held_out: int
    seeds: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    memorised: float | None = None
    problem: str | None = None
    smoke: str | None = None


@dataclass(frozen=True)
class Check:
    """One rule and what came of it, in one line; `passed` is None where it was not asked."""

    rule: str
    passed: bool | None
    said: str


@dataclass(frozen=True)
class Decision:
    """Whether `champion` moves to a version, and why.

    `reason` is one line for people, `rule` the name of the rule that decided, `figures` what it was decided
    on, `against` the champion's version at that moment (None: there was none). `checks` are all rules in their order.
    """

    promoted: bool
    reason: str
    rule: str
    figures: dict[str, float]
    against: int | None
    checks: tuple[Check, ...] = ()


def decide(
    *,
    champion: int | None,
    candidate_version: int,
    interval: tuple[float, float, float] | None,
    measured: Measured,
    rules: Rules,
) -> Decision:
    """The first rule that is against the candidate decides; if there is none, the last one.

    `interval` is low end, point and high end of the paired bootstrap's 95 % interval of FD(candidate) -
    FD(champion), FD being a Frechet distance (lower is better); None if it was not measured. Without a champion,
    or for the champion itself, what compares the two is not asked. A figure that a rule needs and that is missing
    or not finite is against the candidate.
    """
    figures = _figures(measured, rules, interval)
    checks = [*_alone(measured, rules), *_finite(figures)]
    if champion is None:
        checks.append(Check("no_champion", True, "there was no champion"))
    elif champion == candidate_version:
        checks.append(Check("champion_already", True, f"version {champion} is the champion already"))
    else:
        checks += [*_enough(measured, rules), _compared(measured.metrics.get("frechet"), interval, champion)]
    checks = [Check(check.rule, check.passed, " ".join(check.said.split())) for check in checks]
    decisive = next((check for check in checks if check.passed is False), checks[-1])
    promoted = decisive.passed is True
    return Decision(promoted, decisive.said, decisive.rule, figures, champion, tuple(checks))


def _figures(measured: Measured, rules: Rules, interval: tuple[float, float, float] | None) -> dict[str, float]:
    """What the decision rests on, for the record."""
    figures: dict[str, float] = {
        "images_generated": measured.images_generated,
        "images_held_out": measured.images_held_out,
        "minimum_images": rules.minimum_images,
        "seeds": measured.seeds,
    }
    judged = {"frechet", "coverage", "coverage_low", "coverage_high", *rules.limits}
    figures |= {key: value for key, value in measured.metrics.items() if key in judged}
    if measured.memorised is not None:
        figures["memorised"] = measured.memorised
    if interval is not None:
        figures |= zip(("difference_low", "difference", "difference_high"), interval, strict=True)
    return figures


def _alone(measured: Measured, rules: Rules) -> list[Check]:
    """The rules that look at the candidate alone."""
    return [
        _smoke(measured),
        _problem(measured),
        _seeds(measured),
        _coverage(measured, rules),
        *(_limit(key, limit, measured) for key, limit in rules.limits.items()),
    ]


def _smoke(measured: Measured) -> Check:
    if measured.smoke is None:
        return Check("smoke", True, "the loaded artifact makes the candidate's images")
    return _refused("smoke", f"its artifact, loaded again: {measured.smoke}")


def _problem(measured: Measured) -> Check:
    share, problem = measured.memorised, measured.problem
    told = "" if share is None else f": {share:.1%} are nearer to one than 99 % of the held-out images are"
    if problem == "memorised":
        return _refused("memorisation", _PROBLEMS[problem] + told)
    if problem is not None:
        return _refused("problem", _PROBLEMS.get(problem, problem))
    if share is None:
        few = f"{measured.images_held_out:,} held-out images are too few to tell copies of training images"
        return Check("memorisation", None, few)
    return Check("memorisation", True, f"its images are no copies of training images{told}")


def _seeds(measured: Measured) -> Check:
    count = measured.seeds
    if count < MINIMUM_SEEDS:
        return Check("seeds", False, f"{count} generation seed is too few to judge; measure with {MINIMUM_SEEDS}")
    return Check("seeds", True, f"{count} generation seeds")


def _coverage(measured: Measured, rules: Rules) -> Check:
    least, value, held_out = rules.minimum_coverage, measured.metrics.get("coverage"), measured.images_held_out
    if not least:
        return Check("coverage", None, "release.minimum_coverage is 0")
    if held_out < ENOUGH_HELD_OUT:
        return Check("coverage", None, f"{held_out:,} held-out images are too few to speak of coverage")
    if value is None:
        return _refused("coverage", "its coverage was not measured")
    if not value >= least:  # NaN is not, either
        few = f"coverage {value:.3g} is below {least:g} (release.minimum_coverage)"
        return _refused("coverage", f"{few}: few of the held-out images have any of its own among their like")
    return Check("coverage", True, f"coverage {value:.3g}, at least {least:g}")


def _limit(key: str, limit: Limit, measured: Measured) -> Check:
    rule, value, where = f"limit {key}", measured.metrics.get(key), f"(release.limits.{key})"
    if value is None:
        there = ", ".join(measured.metrics) or "none"
        return _refused(rule, f"there is no figure {key} {where}; there is {there}")
    if limit.most is not None and not value <= limit.most:
        return _refused(rule, f"{key} {value:.4g} is not at most {limit.most:g} {where}")
    if limit.least is not None and not value >= limit.least:
        return _refused(rule, f"{key} {value:.4g} is not at least {limit.least:g} {where}")
    return Check(rule, True, f"{key} {value:.4g} is within its limits")


def _refused(rule: str, why: str) -> Check:
    return Check(rule, False, f"the candidate was refused: {why}")


def _finite(figures: Mapping[str, float]) -> list[Check]:
    wrong = ", ".join(f"{name} {figure}" for name, figure in figures.items() if not math.isfinite(figure))
    return [Check("not_finite", False, f"not every figure is a finite number: {wrong}")] if wrong else []


def _enough(measured: Measured, rules: Rules) -> list[Check]:
    """Whether there are images enough to replace a champion."""
    sides = {
        "generated": (measured.images_generated, "see evaluation.minimum_images"),
        "held-out": (measured.images_held_out, "raise data.held_out, or lower evaluation.minimum_images"),
    }
    needed = rules.minimum_images
    checks = []
    for side, (count, remedy) in sides.items():
        few = f"{count:,} {side} images are too few to judge, {needed:,} are needed; {remedy}"
        checks.append(Check("images", count >= needed, few if count < needed else f"{count:,} {side} images"))
    return checks


def _compared(distance: float | None, interval: tuple[float, float, float] | None, champion: int) -> Check:
    if interval is None:
        return Check("not_measured", False, f"the difference from version {champion} was not measured")
    low, point, high = interval
    better = point < 0
    # Ends in the direction of the word: a negative end says that the opposite is possible too.
    ends = (-high, -low) if better else (low, high)
    subject = "" if distance is None else f"Frechet distance {distance:.4g}: "
    measured = (
        f"{subject}{abs(point):.3g} {'better' if better else 'worse'} than version {champion}"
        f" (95 % interval {ends[0]:.3g} to {ends[1]:.3g})"
    )
    # Only where all of the interval is below zero; and so not where any end is no number.
    return Check("interval", high < 0, measured + (", which may be chance" if better and high >= 0 else ""))
