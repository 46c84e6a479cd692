"""Ctrl-C, SIGTERM: the run ends at a checkpoint and loses no step, whenever that comes."""

import os
import random
import signal
import time

import pytest
from chaos_run import BATCH, STEPS


def _ctrl_c(process):
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


def _sigterm(process):
    process.terminate()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("ask", "number"), [(_ctrl_c, signal.SIGINT), (_sigterm, signal.SIGTERM)])
def test_a_run_that_is_asked_to_stop_loses_no_step(run, left_alone, measured, ask, number, seed):
    at = random.Random(seed).randrange(STEPS - 60)
    run.slowly(0.03)
    process = run.start_until_step(at)
    ask(process)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert run.ganline.left_running() == []
    stopped = run.saved_steps()[-1]
    assert at < stopped < STEPS and f"stopped at image {stopped * BATCH:,}" in said
    measured |= {"asked_at_step": at, "stopped_at_step": stopped}

    assert run.train()["run"]["resumed_from"] == stopped * BATCH
    assert [step.step for step in run.disturbances.steps() if step.rank == 0] == list(range(STEPS))  # each once
    run.ends_as(left_alone())


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_one_that_is_asked_before_its_first_step_ends_and_leaves_nothing_running(run, left_alone, share):
    reference = left_alone()
    process = run.ganline.start(*run.command)
    time.sleep(share * reference.seconds_to_first_step())
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert run.ganline.left_running() == []
    run.train()
    run.ends_as(reference)


def test_max_hours_ends_each_start_at_a_checkpoint_and_loses_no_step(run, left_alone, measured):
    seconds = left_alone().seconds_to_first_step() + 10  # Ray's start is in it, and may take longer the next time
    run.settings = [f"training.max_hours={seconds / 3600:.6f}"]
    run.slowly(0.15)
    stops = []
    while (result := run.ganline(*run.command)).code:
        assert result.code == 1 and f"stopped at image {run.saved_steps()[-1] * BATCH:,}" in result.err
        stops.append(run.saved_steps()[-1])
        assert len(stops) < 8 and stops[-1] < STEPS
    measured["stopped_at_steps"] = stops
    assert len(stops) >= 1 and stops == sorted(set(stops))
    assert [step.step for step in run.disturbances.steps() if step.rank == 0] == list(range(STEPS))  # each once
    run.ends_as(left_alone())
