import math

import pytest

from ganmodels.schedules import Schedule, value

RATE = Schedule(2e-4, 5e-5, over=2e7)
WARM = Schedule(0.0, 0.55, over=1000, shape="ramp")


def test_a_number_is_a_constant():
    assert value(0.5, 0) == value(0.5, 10**9) == 0.5


@pytest.mark.parametrize("schedule", [RATE, WARM, Schedule(0.9, 0.99, 3, "ramp"), Schedule(150, 15, 7)])
def test_it_begins_and_ends_where_it_says_and_stays_there(schedule):
    assert value(schedule, 0) == schedule.start
    assert value(schedule, schedule.over) == schedule.end
    assert value(schedule, 100 * schedule.over) == schedule.end


def test_cosine_is_half_a_cosine_wave():
    for share, left in ((1 / 4, (2 + math.sqrt(2)) / 4), (1 / 3, 3 / 4), (1 / 2, 1 / 2), (2 / 3, 1 / 4)):
        assert value(RATE, share * 2e7) == pytest.approx(5e-5 + left * 1.5e-4, rel=1e-12)


def test_a_ramp_is_a_straight_line():
    assert value(WARM, 100) == pytest.approx(0.055, rel=1e-12)
    assert value(WARM, 500) == pytest.approx(0.275, rel=1e-12)


def test_a_shape_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="no shape 'step'; there are cosine, ramp"):
        value(Schedule(0, 1, 10, "step"), 5)
