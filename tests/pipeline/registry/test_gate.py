import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Limit
from pipeline.digest import canonical_json
from pipeline.registry.gate import Measured, Rules, decide

BETTER, WORSE, MAYBE = (-4.0, -3.1, -2.2), (2.2, 3.1, 4.0), (-2.0, -0.5, 1.0)


MEASURED = Measured(images_generated=2000, images_held_out=2000, seeds=2, memorised=0.01)


def judged(rules: dict | None = None, champion=1, interval=BETTER, candidate_version=2, **measured):
    return decide(
        champion=champion, candidate_version=candidate_version, interval=interval,
        measured=dataclasses.replace(MEASURED, **measured), rules=Rules(**(rules or {})),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "promoted", "rule", "said"),
    [
        ({}, True, "interval", "3.1 better than version 1 (95 % interval 2.2 to 4)"),
        ({"interval": WORSE, "metrics": {"frechet": 41.23}}, False, "interval",
         "Frechet distance 41.23: 3.1 worse than version 1 (95 % interval 2.2 to 4)"),
        ({"interval": MAYBE}, False, "interval",
         "0.5 better than version 1 (95 % interval -1 to 2), which may be chance"),
        ({"interval": (-2.0, -1.0, 0.0)}, False, "interval", "which may be chance"),
        ({"interval": (0.0, 0.0, 0.0)}, False, "interval", "0 worse than version 1"),
        ({"problem": "not_finite"}, False, "problem", "not all finite"),
        ({"problem": "constant"}, False, "problem", "one image"),
        ({"problem": "memorised", "memorised": 0.123}, False, "memorisation",
         "returns training images: 12.3% are nearer to one than 99 % of the held-out images are"),
        ({"smoke": "a pixel is NaN"}, False, "smoke", "its artifact, loaded again: a pixel is NaN"),
        ({"problem": "ugly\nas sin"}, False, "problem", "ugly as sin"),
        ({"seeds": 1}, False, "seeds", "measure with 2"),
        ({"champion": None, "interval": None, "images_held_out": 0}, True, "no_champion", "there was no champion"),
        ({"champion": 2, "interval": None}, True, "champion_already", "version 2 is the champion already"),
        ({"images_generated": 1999}, False, "images", "1,999 generated images are too few to judge, 2,000 are needed"),
        ({"images_generated": 1999}, False, "images", "evaluation.minimum_images"),
        ({"images_held_out": 250}, False, "images", "raise data.held_out"),
        ({"interval": None}, False, "not_measured", "was not measured"),
        ({"interval": (math.nan, -3.0, -2.0)}, False, "not_finite", "difference_low nan"),
        ({"interval": (-math.inf, -3.0, -2.0)}, False, "not_finite", "difference_low -inf"),
        ({"interval": (-4.0, math.nan, -2.0)}, False, "not_finite", "difference nan"),
        ({"interval": (-4.0, -3.0, math.nan)}, False, "not_finite", "difference_high nan"),
        ({"metrics": {"frechet": math.nan}}, False, "not_finite", "frechet nan"),
        ({"memorised": math.nan}, False, "not_finite", "memorised nan"),
    ],
)  # fmt: skip
def test_the_rules(changes, promoted, rule, said):
    decision = judged(**changes)
    assert (decision.promoted, decision.rule) == (promoted, rule)
    assert said in decision.reason
    assert "\n" not in decision.reason


LIMITS = {"frechet": Limit(most=50), "recall": Limit(least=0.1, most=0.9)}


@pytest.mark.parametrize("champion", [None, 1, 2])
@pytest.mark.parametrize(
    ("rules", "metrics", "rule", "said"),
    [
        ({"limits": LIMITS}, {"frechet": 50.0, "recall": 0.1}, None, ""),
        ({"limits": LIMITS}, {"frechet": 50.1, "recall": 0.1}, "limit frechet", "frechet 50.1 is not at most 50"),
        ({"limits": LIMITS}, {"frechet": 1.0, "recall": 0.09}, "limit recall", "0.09 is not at least 0.1 (release."),
        ({"limits": LIMITS}, {"frechet": 1.0, "recall": 0.91}, "limit recall", "0.91 is not at most 0.9"),
        ({"limits": LIMITS}, {"frechet": math.nan, "recall": 0.5}, "limit frechet", "frechet nan is not"),
        ({"limits": LIMITS}, {"frechet": 1.0, "recall": math.nan}, "limit recall", "recall nan is not"),
        (
            {"limits": LIMITS},
            {"frechet": 1.0},
            "limit recall",
            "no figure recall (release.limits.recall); there is fre",
        ),
        ({"limits": LIMITS}, {}, "limit frechet", "there is none"),
        ({"minimum_coverage": 0.05}, {"coverage": 0.05}, None, ""),
        ({"minimum_coverage": 0.05}, {"coverage": 0.049}, "coverage", "0.049 is below 0.05 (release.minimum_coverage)"),
        ({"minimum_coverage": 0.05}, {"coverage": math.nan}, "coverage", "coverage nan is below"),
        ({"minimum_coverage": 0.05}, {}, "coverage", "coverage was not measured"),
        ({"minimum_coverage": 0.0}, {"coverage": 0.0}, None, ""),
    ],
)
def test_what_a_recipe_asks_for_is_asked_with_and_without_a_champion(champion, rules, metrics, rule, said):
    decision = judged(champion=champion, rules=rules, metrics=metrics)
    assert decision.promoted == (rule is None)
    if rule:
        assert decision.rule == rule and said in decision.reason


def test_coverage_of_few_held_out_images_is_not_asked():
    for held_out, promoted in ((199, True), (200, False)):
        for metrics in ({}, {"coverage": 0.0}):
            rules = {"minimum_coverage": 0.05}
            decision = judged(champion=None, images_held_out=held_out, rules=rules, metrics=metrics)
            assert decision.promoted == promoted
            (check,) = [check for check in decision.checks if check.rule == "coverage"]
            assert check.passed == (None if promoted else False)


def test_the_rules_come_in_order():
    """Each mends what the one before complained of, and meets the next."""
    steps = [{"smoke": None}, {"problem": None}, {"seeds": 2}, {"metrics": {"coverage": 0.5}}]
    steps += [{"metrics": {"coverage": 0.5, "recall": 0.5, "frechet": 9.0}}, {"images_generated": 2000}]
    steps += [{"images_held_out": 2000}, {"interval": MAYBE}, {"interval": BETTER}]
    now = {"smoke": "grey", "problem": "constant", "seeds": 1, "images_generated": 1, "images_held_out": 900}
    now |= {"metrics": {"coverage": 0.0}, "interval": None, "rules": {"limits": LIMITS, "minimum_coverage": 0.1}}
    decisions = [judged(**now)]
    for step in steps:
        now |= step
        decisions.append(judged(**now))
    rules = ["smoke", "problem", "seeds", "coverage", "limit frechet", "images", "images", "not_measured", "interval"]
    assert [one.rule for one in decisions] == [*rules, "interval"]
    assert decisions[-1].promoted and not any(one.promoted for one in decisions[:-1])
    # All are in the record, whichever decided.
    failed = [check.rule for check in decisions[0].checks if check.passed is False]
    assert failed == ["smoke", "problem", "seeds", "coverage", "limit frechet", "limit recall", *["images"] * 2,
                      "not_measured"]  # fmt: skip
    assert all(check.passed for check in decisions[-1].checks)


@given(st.tuples(st.floats(), st.floats(), st.floats()), st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 3))
def test_a_challenger_is_promoted_only_below_zero_and_on_enough(interval, generated, held_out, seeds):
    decision = judged(interval=interval, images_generated=generated, images_held_out=held_out, seeds=seeds)
    allowed = min(generated, held_out) >= 2000 and seeds >= 2 and all(map(math.isfinite, interval)) and interval[2] < 0
    assert decision.promoted == allowed


def test_a_decision_carries_its_figures():
    rules = {"limits": {"recall": Limit(least=0.1)}}
    decision = judged(metrics={"frechet": 41.0, "recall": 0.3, "kernel": 2.0}, rules=rules)
    assert decision.against == 1
    assert decision.figures == {
        "images_generated": 2000, "images_held_out": 2000, "minimum_images": 2000, "seeds": 2,
        "frechet": 41.0, "recall": 0.3, "memorised": 0.01,
        "difference_low": -4.0, "difference": -3.1, "difference_high": -2.2,
    }  # fmt: skip
    assert json.loads(canonical_json(dataclasses.asdict(decision)))["figures"] == decision.figures
