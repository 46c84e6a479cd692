"""Steps without finite figures: no rank takes them, and too many in a row are answered once."""

import json

import pytest

from pipeline.errors import RunFailed
from pipeline.training.checkpoint import list_checkpoints, newest_checkpoint, read_files
from pipeline.training.health import Health
from pipeline.training.plan import plan_run
from pipeline.training.run import told_failure
from pipeline.training.telemetry import read_points

WITH_NORMS = {"family": "resnet", "spectral_norm": "discriminator"}  # averages of batches are in there too
APART = {"family": "r3gan"}  # nothing else tells a rank of another's rows


def _values(trainer, run: str) -> dict:
    checkpoint = newest_checkpoint(trainer.storage, run)
    return trainer.storage.read_json(f"{checkpoint.path}/state.json")


def test_a_nan_on_one_rank_is_skipped_on_all_counted_and_resumed_bitwise(trainer, run_name):
    poison = {5: 1, 13: 1}
    alone, run = run_name(), run_name()
    whole = trainer(alone, 2, poison=poison, model=APART)
    part = trainer(run, 2, poison=poison, model=APART, stop_at=7)
    part = trainer(run, 2, poison=poison, model=APART)
    assert part.files == whole.files and part.figures == whole.figures
    assert _values(trainer, alone)["health"] == {"skipped": 2, "in_a_row": 0, "rate": 1.0}
    assert [figures.get("skipped_steps", 0) for _, figures in whole.figures] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]


def test_a_skipped_step_leaves_everything_as_it_was(trainer, run_name):
    before, after = run_name(), run_name()
    trainer(before, images=16 * 5, model=WITH_NORMS)
    trainer(after, images=16 * 6, model=WITH_NORMS, poison={5: 1})
    files, others = (read_files(trainer.storage, newest_checkpoint(trainer.storage, run)) for run in (before, after))
    assert {n: d for n, d in files.items() if n != "state.json"} == {
        n: d for n, d in others.items() if n != "state.json"
    }


def test_too_many_in_a_row_go_back_to_the_last_good_checkpoint_with_half_the_rate(trainer, run_name):
    run = run_name()
    # A checkpoint lies at 10, and one at 20 is written in the midst of the trouble.
    trained = trainer(run, 2, poison=dict.fromkeys(range(18, 22), 1), nonfinite_steps=4, learning_rate=1e-3)
    rates = {images: figures["learning_rate"] for images, figures in trained.figures}
    assert rates[160] == 1e-3 and {rate for images, rate in rates.items() if images > 160} == {5e-4}
    assert _values(trainer, run)["health"] == {"skipped": 4, "in_a_row": 0, "rate": 0.5}
    (warning,) = [warning for point in read_points(trainer.storage, run) for warning in point.get("warnings", ())]
    assert warning["code"] == "went_back" and "back to image 160" in warning["line"]
    assert [listed.step for listed in list_checkpoints(trainer.storage, run)] == [24, 20, 10]


def test_before_the_first_checkpoint_it_goes_back_to_the_beginning(trainer, run_name):
    run = run_name()
    trained = trainer(run, poison={0: 1, 1: 1}, nonfinite_steps=2)
    assert len(trained.consumed) == 24 and _values(trainer, run)["health"]["rate"] == 0.5


def test_where_that_does_not_help_the_run_ends_and_starting_it_again_does_not_walk_there(trainer, run_name):
    config = trainer.config(workers=0, nonfinite_steps=2, seed=5)
    run = plan_run(trainer.storage, config, trainer.dataset).run
    trainer(run, poison=dict.fromkeys(range(12, 14), 9), nonfinite_steps=2, seed=5)
    assert "diverged: loss_g is nan at image 224" in told_failure(trainer.storage, run)
    ended = newest_checkpoint(trainer.storage, run)
    with pytest.raises(RunFailed, match=r"diverged.*--restart"):
        trainer.alone(config)
    assert newest_checkpoint(trainer.storage, run) == ended


def test_health_counts():
    health = Health()
    for finite in (False, False, True, False):
        health = health.after(finite)
    assert health == Health(skipped=3, in_a_row=1) and not health.went_back
    assert health.gone_back(3) == Health(skipped=3, rate=0.5) and health.gone_back(3).went_back
    assert json.loads(json.dumps(vars(health))) == {"skipped": 3, "in_a_row": 1, "rate": 1.0}
