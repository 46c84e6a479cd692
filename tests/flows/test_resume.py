"""The promise of the whole: stopped in any way, the same command goes on and ends with the same bits."""

import functools
import json
import os
import signal
from pathlib import Path

from hurry import within
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelling

from pipeline.training.clock import FIGURES


def test_sigterm_then_kill_9_end_with_the_same_weights_as_a_run_left_alone(ganline, left_alone):
    recipe = ganline.tiny()
    # Supervisors, Prefect's worker among them, send it to every process of the group at once.
    process = ganline.start_until(lambda: len(ganline.checkpoints()) >= 1, "run", recipe)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=within(30))
    assert process.returncode == 128 + signal.SIGTERM
    stopped_at = json.loads((ganline.checkpoints()[-1] / "COMPLETE").read_text())["images"]
    assert 0 < stopped_at < 12000
    assert f"stopped at image {stopped_at:,}" in said and "continues" in said
    assert ganline.left_running() == []

    before = len(list(ganline.root.glob("runs/*/grids/*")))
    process = ganline.start_until(
        lambda: any(json.loads((c / "COMPLETE").read_text())["images"] > stopped_at for c in ganline.checkpoints()),
        "run", recipe,
    )  # fmt: skip
    process.kill()
    process.communicate()
    assert ganline.left_running() == []  # not even after SIGKILL
    killed_at = json.loads((ganline.checkpoints()[-1] / "COMPLETE").read_text())["images"]
    assert stopped_at < killed_at < 12000 and before <= 2

    result = ganline("run", recipe, "--json")
    resumed = result.json
    assert resumed["run"]["resumed_from"] == killed_at
    assert f"continues from image {killed_at:,}" in result.err

    ours, theirs = ganline.checkpoints()[-1], max(left_alone.glob("*/checkpoints/*"))
    assert ours.name.split("-")[0] == theirs.name.split("-")[0]  # the step
    for name in ("generator", "discriminator", "ema", "optimizer_g", "optimizer_d"):
        assert (ours / f"{name}.safetensors").read_bytes() == (theirs / f"{name}.safetensors").read_bytes(), name
    assert _figures(ganline.root / "runs") == _figures(left_alone)


def _figures(runs: Path) -> list:
    """Telemetry without what depends on the clock."""
    (path,) = runs.glob("*/telemetry.jsonl")
    points = [json.loads(line) for line in path.read_text().splitlines()]
    return [(p["images"], {k: v for k, v in p["metrics"].items() if k not in FIGURES}) for p in points]


def test_sigterm_between_stages_ends_everything_that_was_started(embedded):
    shards = functools.partial(embedded.root.glob, "datasets/*/shards/*.tar")
    process = embedded.start_until(lambda: any(shards()), "run", embedded.tiny(workers=0))
    process.terminate()
    _, said = process.communicate(timeout=within(30))
    assert process.returncode == 128 + signal.SIGTERM, said
    assert embedded.left_running() == []
    assert "continues" in said.splitlines()[-1]


def test_a_flow_run_that_is_cancelled_in_prefect_ends_at_a_checkpoint(ganline, prefect_url):
    with SyncPrefectClient(prefect_url) as prefect:
        process = ganline.start_until(lambda: len(ganline.checkpoints()) >= 1, "run", ganline.tiny(workers=0))
        (flow_run,) = prefect.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        prefect.set_flow_run_state(flow_run.id, Cancelling())
        _, said = process.communicate(timeout=within(30))
        assert process.returncode == 128 + signal.SIGTERM and "cancelled in Prefect" in said
        stopped_at = json.loads((ganline.checkpoints()[-1] / "COMPLETE").read_text())["images"]
        assert 0 < stopped_at < 12000 and f"stopped at image {stopped_at:,}" in said
        assert prefect.read_flow_run(flow_run.id).state_type.value == "CANCELLED"
    assert ganline.left_running() == []
