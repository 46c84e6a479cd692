import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.digest import canonical_json
from pipeline.registry.gate import decide

BETTER, WORSE, MAYBE = (-4.0, -3.1, -2.2), (2.2, 3.1, 4.0), (-2.0, -0.5, 1.0)


def judged(**changes):
    usual = {
        "champion": 1, "candidate_version": 2, "interval": BETTER,
        "images_generated": 2000, "images_held_out": 2000, "seeds": 2,
    }  # fmt: skip
    return decide(**{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "promoted", "rule", "said"),
    [
        ({}, True, "interval", "3.1 better than version 1 (95 % interval 2.2 to 4)"),
        ({"interval": WORSE, "distance": 41.23}, False, "interval",
         "Frechet distance 41.23: 3.1 worse than version 1 (95 % interval 2.2 to 4)"),
        ({"interval": MAYBE}, False, "interval",
         "0.5 better than version 1 (95 % interval -1 to 2), which may be chance"),
        ({"interval": (-2.0, -1.0, 0.0)}, False, "interval", "which may be chance"),
        ({"interval": (0.0, 0.0, 0.0)}, False, "interval", "0 worse than version 1"),
        ({"problem": "not_finite"}, False, "problem", "not all finite"),
        ({"problem": "constant"}, False, "problem", "one image"),
        ({"problem": "memorised"}, False, "problem", "returns training images"),
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
        ({"distance": math.nan}, False, "not_finite", "distance nan"),
    ],
)  # fmt: skip
def test_the_rules(changes, promoted, rule, said):
    decision = judged(**changes)
    assert (decision.promoted, decision.rule) == (promoted, rule)
    assert said in decision.reason
    assert "\n" not in decision.reason


def test_the_rules_come_in_order():
    """Each mends what the one before complained of, and meets the next."""
    steps = [{"problem": None}, {"seeds": 2}, {"images_generated": 2000}, {"images_held_out": 2000}]
    steps += [{"interval": (math.nan,) * 3}, {"interval": MAYBE}, {"interval": BETTER}]
    now = {"problem": "constant", "seeds": 1, "images_generated": 1, "images_held_out": 1, "interval": None}
    rules = [judged(**now).rule]
    for step in steps:
        now |= step
        rules.append(judged(**now).rule)
    assert rules == ["problem", "seeds", "images", "images", "not_measured", "not_finite", "interval", "interval"]
    assert judged(**now).promoted
    for champion in (None, 2):  # neither lets through what is wrong by itself
        assert not judged(champion=champion, problem="not_finite").promoted
        assert not judged(champion=champion, seeds=0).promoted


@given(st.tuples(st.floats(), st.floats(), st.floats()), st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 3))
def test_a_challenger_is_promoted_only_below_zero_and_on_enough(interval, generated, held_out, seeds):
    decision = judged(interval=interval, images_generated=generated, images_held_out=held_out, seeds=seeds)
    allowed = min(generated, held_out) >= 2000 and seeds >= 2 and all(map(math.isfinite, interval)) and interval[2] < 0
    assert decision.promoted == allowed


def test_a_decision_carries_its_figures():
    decision = judged(distance=41.0)
    assert decision.against == 1
    assert decision.figures == {
        "images_generated": 2000, "images_held_out": 2000, "minimum_images": 2000, "seeds": 2,
        "distance": 41.0, "difference_low": -4.0, "difference": -3.1, "difference_high": -2.2,
    }  # fmt: skip
    assert json.loads(canonical_json(dataclasses.asdict(decision)))["figures"] == decision.figures
