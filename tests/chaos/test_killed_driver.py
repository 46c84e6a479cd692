"""A driver that is killed while something is half written: the same command goes on from what was whole."""

import pytest
from chaos_run import BATCH, EVERY
from disturbances import Disturbance


@pytest.mark.parametrize("step", [1, 4 * EVERY])
@pytest.mark.parametrize("file", ["optimizer_d.safetensors", "COMPLETE"])
def test_between_upload_and_marker_the_checkpoint_before_is_the_last(run, left_alone, measured, file, step):
    run.disturbances.will(Disturbance("amid", "wait", "write", first=step, path=f"/{file}", seconds=600))
    process = run.start_until(lambda: run.disturbances.came("amid"))
    process.kill()
    process.communicate()
    assert run.ganline.left_running() == []
    before = max(run.saved_steps(), default=0)
    folders = list((run.folder / "checkpoints").iterdir())
    assert len(folders) == len(run.saved_steps()) + 1  # one that is half there
    assert (before > 0) == (step > EVERY)

    run.disturbances.forget()
    assert run.train()["run"]["resumed_from"] == before * BATCH
    measured["resumed_from_step"] = before
    assert len(list((run.folder / "checkpoints").iterdir())) == len(run.saved_steps())
    run.ends_as(left_alone())


def test_a_cut_snapshot_of_rays_own_keeps_no_run_from_going_on(run, left_alone):
    process = run.start_until_step(3 * EVERY + 5)
    process.kill()
    process.communicate()
    assert run.ganline.left_running() == []
    folders = list((run.ganline.root / "cache" / "ray").iterdir())
    for folder in [*folders, run.ganline.root / "cache" / "ray" / run.folder.name]:
        folder.mkdir(exist_ok=True)
        (folder / "checkpoint_manager_snapshot.json").write_text('{"ray_version": "2.60.0", "checkpo')
    assert folders and run.train()["run"]["resumed_from"] >= 2 * EVERY * BATCH
    run.ends_as(left_alone())
