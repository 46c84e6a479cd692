"""When a run gets no better."""

from math import nan

from pipeline.training.plateau import Best, reached


def after(*distances: float) -> list[Best]:
    best, seen = Best(), []
    for number, distance in enumerate(distances, start=1):
        best = best.after(distance, 100 * number)
        seen.append(best)
    return seen


def test_the_lowest_is_kept_with_its_place_and_what_came_since():
    assert after(5.0, 6.0, 4.0, 4.0, 4.5) == [
        Best(5.0, 100), Best(5.0, 100, 1), Best(4.0, 300), Best(4.0, 300, 1), Best(4.0, 300, 2),
    ]  # fmt: skip


def test_it_is_reached_after_so_many_in_a_row_without_a_lower_one():
    assert [reached(best, 2) for best in after(5.0, 6.0, 4.0, 4.0, 4.5, 3.0)] == [False] * 4 + [True, False]
    assert not any(reached(best, None) for best in after(*[1.0] * 50))
    assert not reached(Best(), 1)


def test_what_is_no_number_is_no_better_and_hides_nothing():
    assert after(nan, 5.0, nan) == [Best(None, 0), Best(5.0, 200), Best(5.0, 200, 1)]
