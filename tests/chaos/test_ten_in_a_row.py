"""Stopped and killed again and again."""

import os
import random
import signal
from functools import partial

from chaos_run import BATCH, STEPS


def test_ten_kills_in_a_row_end_in_the_bits_of_a_run_left_alone(run, left_alone, measured):
    run.settings = ["training.precision=bf16"]
    lot, saved, kills = random.Random(0), 0, []
    run.slowly(0.03)
    for _ in range(10):
        at = min(saved + lot.randrange(1, STEPS // 10), STEPS - 40)
        process = run.start_until(partial(_reached, run, len(run.disturbances.steps()), at))
        way = lot.choice(["kill -9 of the driver", "kill -9 of a rank, then of the driver", "SIGTERM", "Ctrl-C"])
        _end(run, process, way, lot.randrange(2))
        assert run.ganline.left_running() == []
        saved = max([saved, *run.saved_steps()])
        kills.append({"way": way, "at_step": at, "checkpoint": saved})
    measured["kills"] = kills
    assert run.train()["run"]["resumed_from"] == saved * BATCH
    run.ends_as(left_alone(*run.settings))


def _reached(run, since, step):
    return any(taken.step >= step for taken in run.disturbances.steps()[since:])


def _end(run, process, way, rank):
    if way == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    elif way == "SIGTERM":
        process.terminate()
    else:
        if "rank" in way:
            newest = max((step for step in run.disturbances.steps() if step.rank == rank), key=lambda step: step.time)
            os.kill(newest.pid, signal.SIGKILL)
        process.kill()
    process.communicate(timeout=60)
