"""Checkpoints that do not fit on the disk: training goes on, and the last that did fit stands."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaos_run import BATCH, EVERY
from disturbances import Disturbance


def test_while_no_checkpoint_can_be_written_training_goes_on_and_the_one_before_stands(run, left_alone):
    run.disturbances.will(Disturbance("full", "full", "write", first=3 * EVERY, path="/checkpoints/", times=-1))
    process = run.start_until_step(7 * EVERY)
    assert run.saved_steps()[-1] < 3 * EVERY
    assert any(point["metrics"].get("checkpoints_failed") for point in run.points())
    process.kill()
    process.communicate()
    assert run.ganline.left_running() == []
    before = run.saved_steps()[-1]
    run.disturbances.forget()
    assert run.train()["run"]["resumed_from"] == before * BATCH
    run.ends_as(left_alone())


def test_a_disk_that_is_full_and_is_then_made_larger_costs_checkpoints_and_nothing_else(run, left_alone, measured):
    reference = left_alone()
    one = sum(file.stat().st_size for file in reference.ganline.checkpoints()[-1].iterdir())
    checkpoints = run.ganline.root / "runs" / reference.folder.name / "checkpoints"
    with _small_disk(checkpoints, one * 5 // 2):
        run.slowly(0.03)
        process = run.start_until_step(6 * EVERY)
        kept, free = run.saved_steps(), shutil.disk_usage(checkpoints).free
        assert len(kept) == 2 and kept[-1] < 4 * EVERY and free < one
        _mount("-o", f"remount,size={10 * one}", checkpoints)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert {point["metrics"].get("checkpoints_failed", 0) for point in run.points()} > {0}
        measured["checkpoints_failed"] = run.points()[-1]["metrics"]["checkpoints_failed"]
        run.ends_as(reference)


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes, which only root may make."""
    folder.mkdir(parents=True)
    try:
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    except (subprocess.CalledProcessError, FileNotFoundError) as why:
        pytest.skip(f"no file system can be mounted here: {why}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)
