"""One MLflow run for each Ganline run: its params, tags, dataset, points and pictures."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE, MAX_METRICS_PER_BATCH, MAX_PARAM_VAL_LENGTH

from pipeline.config import Config
from pipeline.redact import redact
from pipeline.registry.server import artifact_location

# Sent with the last metric of each point: up to where a replay has nothing to do.
MARKER = "images_seen"


def open_run(client: MlflowClient, config: Config, run_name: str, dataset: dict[str, Any]) -> str:
    """The id of this Ganline run's MLflow run, made or continued, with status RUNNING.

    `dataset` has `name`, `digest`, `samples`, `classes` and `uri`. Params keep the values of the first
    start, because MLflow's cannot change; the tag `ganline.config` names the latest.
    """
    experiment = _experiment(client, config.name)
    tags = {
        "ganline.run": run_name,
        "ganline.dataset": dataset["digest"],
        "ganline.config": config.digest(),
    }
    runs = client.search_runs(
        [experiment],
        f"tags.`ganline.run` = '{run_name}'",
        ViewType.ACTIVE_ONLY,
        1,
        ["attributes.start_time ASC"],
    )
    if runs:
        run = runs[0]
        client.update_run(run.info.run_id, status="RUNNING")
        client.set_tag(run.info.run_id, "ganline.config", tags["ganline.config"])
    else:
        run = client.create_run(experiment, tags=tags, run_name=run_name)
    # Not only for a new run: the process may have died after it created one.
    params = dict(_flatten(config.model_dump(mode="json")))
    missing = [Param(key, params[key]) for key in params if key not in run.data.params]
    client.log_batch(run.info.run_id, params=missing, synchronous=True)
    client.log_inputs(run.info.run_id, [_lineage(config, dataset)])
    return run.info.run_id


def finish_run(client: MlflowClient, run_id: str, status: str) -> None:
    """`status` is FINISHED, FAILED or KILLED."""
    client.set_terminated(run_id, status)


def last_images(client: MlflowClient, run_id: str) -> int:
    """Images seen at the latest point that is there in full; -1 if there is none."""
    return int(client.get_run(run_id).data.metrics.get(MARKER, -1))


def send_points(client: MlflowClient, run_id: str, points: Iterable[dict[str, Any]]) -> None:
    """Logs what is not there yet, so that a replay of the whole telemetry file sends every point once.

    Points of the same images must come in the same call. Where a resumed run has written a metric a
    second time for the same images, the first counts.
    """
    last = last_images(client, run_id)
    log_points(client, run_id, (point for point in points if point["images"] > last))


def log_points(client: MlflowClient, run_id: str, points: Iterable[dict[str, Any]]) -> None:
    """Logs `{"images": int, "time": unix seconds, "metrics": {name: float}}`, images being the step.

    In order of images, and the marker last for each: whatever is cut off is above `last_images`.
    """
    at: dict[int, dict[str, Metric]] = {}
    for point in points:
        images, time = int(point["images"]), int(point["time"] * 1000)
        there = at.setdefault(images, {})
        for name, value in {**point["metrics"], MARKER: images}.items():
            there.setdefault(name, Metric(name, float(value), time, images))
    batch: list[Metric] = []
    for _, metrics in sorted(at.items()):
        marker = metrics.pop(MARKER)
        if len(batch) + len(metrics) >= MAX_METRICS_PER_BATCH:
            client.log_batch(run_id, metrics=batch, synchronous=True)
            batch = []
        batch += [*metrics.values(), marker]
    client.log_batch(run_id, metrics=batch, synchronous=True)


def log_file(client: MlflowClient, run_id: str, data: bytes, artifact_path: str) -> None:
    """Stores `data` among the run's artifacts at `artifact_path`, such as `grids/000020000.png`."""
    path = PurePosixPath(artifact_path)
    with TemporaryDirectory() as folder:
        file = Path(folder, path.name)
        file.write_bytes(data)
        client.log_artifact(run_id, str(file), None if path.parent == PurePosixPath(".") else str(path.parent))


def _experiment(client: MlflowClient, name: str) -> str:
    location = artifact_location(client.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was quicker
            assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, redact(str(value))[:MAX_PARAM_VAL_LENGTH]


def _lineage(config: Config, dataset: dict[str, Any]) -> DatasetInput:
    uri = redact(str(dataset["uri"]))
    shape = [-1, config.data.resolution, config.data.resolution, config.data.channels]
    features = [{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": shape}}]
    return DatasetInput(
        Dataset(
            name=dataset["name"],
            digest=dataset["digest"][:MAX_DATASET_DIGEST_SIZE],  # in full in the tag ganline.dataset
            source_type=urlsplit(uri).scheme or "local",
            source=json.dumps({"uri": uri}),
            schema=json.dumps({"mlflow_tensorspec": {"features": json.dumps(features), "targets": None}}),
            profile=json.dumps({"samples": dataset["samples"], "classes": dataset["classes"]}),
        ),
        [InputTag("mlflow.data.context", "training")],
    )


def log_figures(client: MlflowClient, run_id: str, images: int, figures: dict[str, float]) -> None:
    """Figures measured once, at `images` seen."""
    now = int(time.time() * 1000)
    client.log_batch(run_id, [Metric(name, value, now, images) for name, value in figures.items()])


def supersede_run(client: MlflowClient, config: Config, run_name: str) -> None:
    """The run is begun anew: what it was so far keeps its figures under another tag."""
    experiment = client.get_experiment_by_name(config.name)
    if experiment is None:
        return
    for run in client.search_runs([experiment.experiment_id], f"tags.`ganline.run` = '{run_name}'"):
        client.set_tag(run.info.run_id, "ganline.run", f"{run_name} superseded")
        if run.info.status == "RUNNING":  # its process was killed, and nobody will go on with it
            finish_run(client, run.info.run_id, "KILLED")


def is_there(client: MlflowClient, run_id: str) -> bool:
    """Whether the run exists and was not deleted."""
    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
