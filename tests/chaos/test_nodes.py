"""Machines that go and come: raylets of a real cluster."""

import time

import pytest
from chaos_run import EVERY, STEPS
from three_nodes import ray_cluster

NODES = ("127.0.0.2", "127.0.0.3")
PACE = 0.2  # seconds a step


@pytest.fixture
def cluster(run):
    with ray_cluster({name: run.ganline.env[name] for name in ("PYTHONPATH", "GANLINE_CHAOS")}, *NODES) as cluster:
        run.ganline.env |= cluster.environment
        yield cluster


def test_a_node_that_dies_and_comes_back_costs_seconds_and_no_bit(run, cluster, left_alone, measured):
    process = run.start_until_step(3 * EVERY + 5)
    lost = _node_of_rank_1(run, cluster)
    cluster.kill(lost)
    died = time.time()
    cluster.start(lost)
    back = time.time()
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    measured |= {
        "seconds_without_it": round(back - died, 1),
        "seconds_to_next_step": round(run.disturbances.seconds_to_next_step(died), 1),
    }
    run.ends_as(left_alone())


def test_a_range_of_workers_shrinks_with_a_lost_node_and_grows_with_its_return(run, cluster, left_alone, measured):
    run.settings = ["cluster.workers=1-2"]
    run.slowly(PACE)
    process = run.start_until_step(3 * EVERY + 5)
    lost = _node_of_rank_1(run, cluster)
    cluster.kill(lost)
    died = time.time()
    _until(process, lambda: _worlds(run, died) == {1})
    measured["seconds_to_next_step_alone"] = round(run.disturbances.seconds_to_next_step(died), 1)
    assert measured["seconds_to_next_step_alone"] <= 60
    cluster.start(lost)
    back = time.time()
    _until(process, lambda: 2 in _worlds(run, back))
    measured["seconds_to_next_step_together"] = round(run.disturbances.seconds_to_next_step(back), 1)
    run.disturbances.forget()
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert run.disturbances.consumed() == left_alone().disturbances.consumed()
    assert run.saved_steps()[-1] == STEPS


def test_a_node_that_gives_notice_costs_no_step(run, cluster, left_alone, measured):
    run.settings = ["cluster.workers=1-2"]
    run.slowly(PACE)
    process = run.start_until_step(3 * EVERY + 5)
    lost = _node_of_rank_1(run, cluster)
    notice = time.time()
    cluster.drain(lost, 120)
    _until(process, lambda: 1 in _worlds(run, notice))
    measured["seconds_to_next_step_alone"] = round(run.disturbances.seconds_to_next_step(notice), 1)
    run.disturbances.forget()
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert [step.step for step in run.disturbances.steps() if step.rank == 0] == list(range(STEPS))  # each once
    assert run.disturbances.consumed() == left_alone().disturbances.consumed()


def _node_of_rank_1(run, cluster):
    """The head has no CPU, so the other nodes have a worker each."""
    newest = [step for step in run.disturbances.steps() if step.rank == 1][-1]
    return cluster.node_of(newest.pid)


def _worlds(run, since):
    """Of the groups that took their first step after `since`."""
    before = {step.pid for step in run.disturbances.steps() if step.time <= since}
    return {step.world for step in run.disturbances.steps() if step.pid not in before}


def _until(process, ready):
    deadline = time.monotonic() + 180
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
