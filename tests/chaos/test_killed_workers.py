"""Ranks that die at any moment: the group starts again by itself and ends with the same bits."""

import random

import pytest
from chaos_run import EPOCH, EVERY, STEPS
from disturbances import at_step
from hurry import within


def _moment(seed: int) -> tuple[int, int, float]:
    """Rank, step, and seconds into it: at random, and for some of the seeds around checkpoints and ends of epochs."""
    lot = random.Random(seed)
    around = {0: EVERY * 3, 1: EVERY * 5 - 1, 2: EPOCH, 3: EPOCH - 1, 4: STEPS - 1}.get(seed)
    return seed % 2, lot.randrange(EVERY, STEPS) if around is None else around, lot.uniform(0, 0.03)


@pytest.mark.parametrize("seed", [*range(9), pytest.param(9, marks=pytest.mark.quick)])
def test_either_rank_killed_at_any_step_costs_seconds_and_no_bit(run, left_alone, measured, seed):
    rank, step, seconds = _moment(seed)
    run.disturbances.will(at_step("kill soon", step, rank, seconds=seconds))
    run.train()
    (death,) = run.disturbances.came("kill-soon")
    assert death["rank"] == rank
    wait = run.disturbances.seconds_to_next_step(death["time"] + seconds)
    measured |= {"rank": rank, "step": step, "seconds_to_next_step": round(wait, 1)}
    assert wait <= within(30)
    run.ends_as(left_alone())
