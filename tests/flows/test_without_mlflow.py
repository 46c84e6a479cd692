"""A new run wants a server that answers, since the URI may be wrong; one that has begun goes on without."""

import os
from contextlib import nullcontext

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from flows import preflight, stages
from pipeline.errors import Unavailable, UserError
from pipeline.registry import server
from pipeline.shards import on_ray as shards_on_ray
from pipeline.storage import Storage
from pipeline.training import sink

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def config(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    from pipeline.config import Config

    (tmp_path / "images").mkdir()
    for i in range(20):
        Image.fromarray(np.full((16, 16), i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    monkeypatch.setattr(shards_on_ray, "cluster", nullcontext)
    monkeypatch.setattr(shards_on_ray, "run_tasks", lambda function, shared, each: (function(shared, x) for x in each))
    monkeypatch.setattr(sink, "_LAST_PAUSES", (0.1,))
    return Config.model_validate(
        {
            "name": "t", "data": {"source": str(tmp_path / "images"), "resolution": 16, "channels": 1},
            "model": {"width": 8}, "training": {"images": 32, "batch": 8, "precision": "fp32"},
            "cluster": {"workers": 0},
        }
    )  # fmt: skip


def test_a_new_run_is_refused_and_a_begun_one_goes_on_and_is_told_in_one_line(config, tmp_path, monkeypatch, heard):
    storage = Storage(str(tmp_path / "root"))
    dataset = stages.shard(storage, config).dataset
    token = server._answered.set(frozenset())
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
        for refused in (
            lambda: preflight.check_services(config, storage),
            lambda: stages.train(storage, config, dataset),
            lambda: preflight.check_services(config, storage, restart=True),
        ):
            with pytest.raises(Unavailable, match="does not answer"):
                refused()
        assert not any(storage.list("runs"))

        monkeypatch.setattr(server, "has_answered", lambda storage: True)
        monkeypatch.setattr(stages, "has_answered", lambda storage: True)  # it did, and died a moment later
        with pytest.raises(Unavailable, match="is trained and safe in"):
            stages.train(storage, config, dataset)
        assert any("is trained without it meanwhile" in note for note in heard.notes)
        monkeypatch.setattr(stages, "has_answered", lambda storage: False)

        preflight.check_services(config, storage)
        with pytest.raises(Unavailable, match="is trained and safe in"):
            stages.train(storage, config, dataset)
        with pytest.raises(UserError) as told:
            stages.train(storage, config, dataset, restart=True)
        assert not isinstance(told.value, Unavailable)  # a retry would not begin anew

        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        training = stages.train(storage, config, dataset)
        assert training.resumed_from == 32
        run = server.client(storage).get_run(training.mlflow_run)
        assert (run.info.status, run.data.metrics["images_seen"]) == ("FINISHED", 32)
    finally:
        server._answered.reset(token)
