"""What the first rank writes of a run, and in which order."""

import time

import torch

from pipeline.training import recording
from pipeline.training.job import Job
from pipeline.training.plan import plan_run
from pipeline.training.spool.disk import DiskWriter
from pipeline.training.telemetry import read_points
from pipeline.training.worker import work


def test_a_checkpoint_comes_after_the_points_up_to_it(trainer, monkeypatch):
    """Killed right after it, a run would not measure them again."""
    append, save, there = DiskWriter.append, recording.save_checkpoint, []

    def slow_append(self, lines) -> None:
        time.sleep(0.3)
        append(self, lines)

    def noting_save(storage, run, snapshot, batch, **rest):
        there.append((snapshot.step * batch, read_points(storage, run)[-1]["images"]))
        return save(storage, run, snapshot, batch, **rest)

    monkeypatch.setattr(DiskWriter, "append", slow_append)
    monkeypatch.setattr(recording, "save_checkpoint", noting_save)
    config = trainer.config(images=128, log_every=32, checkpoint_every=64, seed=4242)
    plan = plan_run(trainer.storage, config, trainer.dataset)
    work(Job(trainer.storage, config, plan, threads=1), torch.device("cpu"))
    assert there[-1][0] == 128
    assert all(points >= checkpoint for checkpoint, points in there)
    assert [point["images"] for point in read_points(trainer.storage, plan.run)] == [32, 64, 96, 128]
