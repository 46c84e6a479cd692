"""Not a number in one rank's batch: skipped by all, and if it does not end, answered once."""

import json
import re

from chaos_run import BATCH, STEPS
from disturbances import Disturbance, at_step

POISONED, K = 100, 5


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_by_all_and_counted(new_run):
    poison = at_step("poison", POISONED, rank=1, times=-1)
    run, killed = new_run(), new_run()
    run.disturbances.will(poison)
    run.train()
    weights = run.disturbances.weights()  # the same on both ranks
    assert weights[POISONED] == weights[POISONED - 1] != weights[POISONED + 1]
    skipped = [(point["images"], point["metrics"].get("skipped_steps", 0.0)) for point in run.points()]
    assert all(count == (images > POISONED * BATCH) for images, count in skipped)

    killed.disturbances.will(poison, at_step("kill soon", POISONED + 7, rank=0, seconds=0.01))
    killed.train()
    assert killed.disturbances.came("kill-soon")
    killed.ends_as(run)


def test_k_in_a_row_take_the_run_back_once_with_half_the_rate(new_run, measured):
    run = new_run(f"training.nonfinite_steps={K}")
    run.disturbances.will(_poison(times=1))
    run.train()
    (warning,) = [warning for point in run.points() for warning in point.get("warnings", [])]
    assert warning["code"] == "went_back"
    measured["warning"] = warning["line"]
    rates = {point["metrics"]["learning_rate"] for point in run.points()}
    assert max(rates) == 2 * min(rates)
    taken = [step.step for step in run.disturbances.steps() if step.rank == 0]
    assert POISONED - 40 < taken[taken.index(POISONED + K - 1) + 1] <= POISONED and taken[-1] == STEPS - 1
    assert run.ganline.left_running() == []


def test_where_that_does_not_help_the_run_stops_with_the_reason_and_so_does_the_next_start(new_run):
    run = new_run(f"training.nonfinite_steps={K}")
    run.disturbances.will(_poison(times=-1))
    for _ in range(2):
        result = run.ganline(*run.command)
        assert result.code == 1 and re.search(r"diverged: \w+ is nan at image [\d,]+; ", result.err.splitlines()[-1])
        assert run.ganline.left_running() == []
    health = json.loads((run.ganline.checkpoints()[-1] / "state.json").read_text())["health"]
    assert health["rate"] == 0.5 and health["in_a_row"] == 0


def _poison(times: int) -> Disturbance:
    return Disturbance("poison", "poison", first=POISONED, last=POISONED + K - 1, rank=1, times=times)
