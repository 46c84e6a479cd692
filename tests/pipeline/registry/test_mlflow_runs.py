import json
import math
import time

import pytest
from hurry import within

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.redact import redact
from pipeline.registry.runs import IMAGES, already_sent, finish_run, log_file, open_run, send_points, supersede_run
from pipeline.registry.server import client as connect
from pipeline.storage import Storage


def test_a_run_opened_twice_is_one_run_with_params_tags_and_lineage(world):
    finish_run(world.client, world.run_id, "FAILED")
    assert open_run(world.client, world.config, "dots-1", world.dataset) == world.run_id
    run = world.client.get_run(world.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params["training.batch"] == "64"
    assert run.data.params["data.resolution"] == "28"
    assert run.data.tags["ganline.run"] == "dots-1"
    assert run.data.tags["ganline.dataset"] == "d" * 64
    assert run.data.tags["ganline.config"] == world.config.digest()
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.source_type) == ("dots", "s3")
    assert ("d" * 64).startswith(used.dataset.digest)
    assert len(used.dataset.digest) == 36
    assert json.loads(used.dataset.profile) == {"samples": 10, "classes": 2}
    assert json.loads(used.dataset.source) == {"uri": "s3://***@bucket/dots"}
    assert open_run(world.client, world.config, "dots-2", world.dataset) != world.run_id


def test_a_run_begun_anew_leaves_no_dead_one_running(world):
    ended, killed = (Config.model_validate({"name": name}) for name in ("ended", "killed"))
    for config, name, status in ((ended, "ended-1", "FINISHED"), (killed, "killed-1", "KILLED")):
        before = open_run(world.client, config, name, world.dataset)
        if status == "FINISHED":
            finish_run(world.client, before, status)
        supersede_run(world.client, config, name)
        assert world.client.get_run(before).info.status == status
        assert open_run(world.client, config, name, world.dataset) != before


def test_no_secret_reaches_the_params(world):
    params = world.client.get_run(world.run_id).data.params
    assert params["storage"] == "s3://***@bucket/x?region=eu&token=***"
    assert "pass" not in "".join(params.values())


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://host:5000/x", "http://host:5000/x"),
        ("http://me:p@ss@host:5000", "http://***@host:5000"),
        ("s3://key:sec/ret+@bucket/x", "s3://***@bucket/x"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("s3://b/x?secret_key=k&endpoint_override=http://u:p@h", "s3://b/x?secret_key=***&endpoint_override=http://***@h"),
        ("/a/path?b", "/a/path?b"),
    ],
)  # fmt: skip
def test_redacted(uri, said):
    assert redact(uri) == said


def test_a_deleted_experiment_comes_back(world):
    config = Config.model_validate({"name": "gone"})
    run_id = open_run(world.client, config, "gone-1", world.dataset)
    world.client.delete_experiment(world.client.get_experiment_by_name("gone").experiment_id)
    assert open_run(world.client, config, "gone-1", world.dataset) == run_id


def test_points_replayed_arrive_once_each(world):
    run_id = open_run(world.client, world.config, "dots-points", world.dataset)
    assert already_sent(world.client, run_id) == {}
    points = [
        {"images": 64 * step, "time": 1e9 + step, "metrics": {"loss": step / 3, "other": math.nan}}
        for step in range(700)  # three metrics each: more than two calls' worth
    ]
    send_points(world.client, run_id, points[:300], {})
    again = [{**point, "time": point["time"] + 50} for point in points]  # as a resumed run writes them
    sent = already_sent(world.client, run_id)
    send_points(world.client, run_id, again + again[600:], sent)
    send_points(world.client, run_id, points, sent)
    late = {"images": 64, "time": 1e9, "metrics": {"frechet": 2.0}}  # of a state that training had left long ago
    send_points(world.client, run_id, [late], sent)
    history = world.client.get_metric_history(run_id, "loss")
    assert sorted((one.step, one.value) for one in history) == [(64 * s, s / 3) for s in range(700)]
    assert len(world.client.get_metric_history(run_id, "other")) == 700
    assert [one.step for one in world.client.get_metric_history(run_id, "frechet")] == [64]
    assert (
        sent
        == already_sent(world.client, run_id)
        == dict.fromkeys(("loss", "other", IMAGES), 64 * 699) | {"frechet": 64}
    )


def test_what_broke_off_between_two_requests_goes_on_where_it_did(world):
    run_id = open_run(world.client, world.config, "dots-cut", world.dataset)
    calls = []

    class Dies:
        def log_batch(self, run_id, metrics, synchronous):
            if calls:
                raise ConnectionError
            calls.append(metrics)
            world.client.log_batch(run_id, metrics=metrics)

    points = [{"images": s, "time": 1.0, "metrics": {f"m{i}": 0.0 for i in range(300)}} for s in (1, 2, 3, 4)]
    sent: dict[str, int] = {}
    with pytest.raises(ConnectionError):
        send_points(Dies(), run_id, points, sent)
    assert len(calls[0]) == 1000  # in the middle of a point
    assert sent == already_sent(world.client, run_id)
    send_points(world.client, run_id, points, already_sent(world.client, run_id))
    assert {len(world.client.get_metric_history(run_id, f"m{i}")) for i in range(0, 300, 23)} == {4}


def test_a_run_that_was_created_twice_is_one(world):
    """As MLflow's client does it, when the first answer is lost."""
    run_id = open_run(world.client, world.config, "dots-twice", world.dataset)
    tags = {"ganline.run": "dots-twice"}
    experiment = world.client.get_run(run_id).info.experiment_id
    twin = world.client.create_run(experiment, tags=tags).info.run_id
    assert open_run(world.client, world.config, "dots-twice", world.dataset) == run_id
    assert world.client.get_run(twin).info.lifecycle_stage == "deleted"


def test_files_lie_in_the_storage_root_and_nowhere_else(world, here):
    log_file(world.client, world.run_id, b"png", "grids/000064.png")
    log_file(world.client, world.run_id, b"text", "note.txt")
    assert [one.path for one in world.client.list_artifacts(world.run_id, "grids")] == ["grids/000064.png"]
    (grid,) = world.storage.local_path("mlartifacts").rglob("000064.png")
    assert grid.read_bytes() == b"png"
    assert {entry.path for entry in world.storage.list("")} >= {"/mlflow.db", "/mlartifacts"}
    assert here() == []


def test_a_dead_server_is_a_user_error_in_seconds(world, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    for uri in ("http://me:hush@127.0.0.1:9", "postgresql://me:hush@127.0.0.1:9/db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        began = time.monotonic()
        with pytest.raises(UserError) as error:
            connect(world.storage)
        assert time.monotonic() - began < within(10)
        assert "***@127.0.0.1:9" in str(error.value)
        assert "unset MLFLOW_TRACKING_URI" in str(error.value)
        assert "hush" not in str(error.value)
        assert "\n" not in str(error.value)


def test_a_broken_store_is_a_user_error_in_seconds(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"mlflow\.db"):
        connect(Storage(str(tmp_path)))
    assert time.monotonic() - began < within(10)
