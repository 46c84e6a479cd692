"""A driver whose run was taken by another leaves that run alone in MLflow too."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from PIL import Image

from flows import stages
from pipeline.config import Config
from pipeline.errors import Unavailable
from pipeline.registry.server import client
from pipeline.shards import on_ray
from pipeline.storage import Storage
from pipeline.training import train
from pipeline.training.run import only_writer


@pytest.fixture
def run(s3_root, tmp_path, monkeypatch):
    """Storage and recipe of a run on an object store, and its dataset; MLflow is a sqlite file."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.setattr(on_ray, "cluster", nullcontext)
    monkeypatch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))
    monkeypatch.setattr(stages, "only_writer", partial(only_writer, seconds=1.0))
    (tmp_path / "images").mkdir()
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    config = Config.model_validate({
        "name": "lost",
        "data": {"source": str(tmp_path / "images"), "resolution": 16, "channels": 1},
        "model": {"width": 4, "z_dim": 8},
        "training": {"batch": 16},
    })  # fmt: skip
    storage = Storage(s3_root)
    return storage, config, on_ray.shard_images(storage, "lost", config.data).dataset


def status(storage: Storage) -> str:
    (found,) = client(storage).search_runs(["1"], "tags.`ganline.run` LIKE 'lost-%'")
    return found.info.status


@pytest.mark.parametrize(("taken", "ends_as"), [(True, "RUNNING"), (False, "FAILED")])
def test_only_its_owner_says_that_a_run_has_failed(run, monkeypatch, taken, ends_as):
    storage, config, dataset = run

    def breaks_off(storage, config, planned, held):
        while True:  # until MLflow has the run, which another goes on with
            if client(storage).search_runs(["1"], "tags.`ganline.run` LIKE 'lost-%'"):
                break
        if taken:
            storage.write(f"runs/{planned.run}/lock/another.000000001.holds.60000", b"process 1 on another")
            while True:
                held.check()  # as the driver does, once a second
        raise RuntimeError("out of luck")

    monkeypatch.setattr(train, "train_run", breaks_off)
    with pytest.raises(Unavailable if taken else RuntimeError):
        stages.train(storage, config, dataset)
    assert status(storage) == ends_as
