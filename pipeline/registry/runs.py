"""One MLflow run for each Ganline run: its params, tags, dataset, points and pictures."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE, MAX_METRICS_PER_BATCH, MAX_PARAM_VAL_LENGTH

from pipeline.config import Config
from pipeline.redact import redact
from pipeline.registry.server import artifact_location

# Sent with each point: how far the run has come.
IMAGES = "images_seen"


def open_run(
    client: MlflowClient, config: Config, run_name: str, dataset: dict[str, Any], forked_from: str | None = None
) -> str:
    """The id of this Ganline run's MLflow run, made or continued, with status RUNNING.

    `dataset` has `name`, `digest`, `samples`, `classes` and `uri`; `forked_from` is RUN@STEP. Params keep the values
    of the first start, because MLflow's cannot change; the tag `ganline.config` names the latest.
    """
    experiment = _experiment(client, config.name)
    tags = {
        "ganline.run": run_name,
        "ganline.dataset": dataset["digest"],
        "ganline.config": config.digest(),
        **({"ganline.forked_from": forked_from} if forked_from else {}),
    }
    runs = _known_runs(client, experiment, run_name)
    if runs:
        client.update_run(runs[0].info.run_id, status="RUNNING")
        client.set_tag(runs[0].info.run_id, "ganline.config", tags["ganline.config"])
    else:
        client.create_run(experiment, tags=tags, run_name=run_name)
        runs = _known_runs(client, experiment, run_name)
    run, *twins = runs
    for twin in twins:  # of a request that was repeated because its answer was lost
        if not twin.data.metrics:
            client.delete_run(twin.info.run_id)
    # Not only for a new run: the process may have died after it created one.
    params = dict(_flatten(config.model_dump(mode="json")))
    missing = [Param(key, params[key]) for key in params if key not in run.data.params]
    client.log_batch(run.info.run_id, params=missing, synchronous=True)
    client.log_inputs(run.info.run_id, [_lineage(config, dataset)])
    return run.info.run_id


def finish_run(client: MlflowClient, run_id: str, status: str) -> None:
    """`status` is FINISHED, FAILED or KILLED."""
    client.set_terminated(run_id, status)


def already_sent(client: MlflowClient, run_id: str) -> dict[str, int]:
    """For each metric that is there, the images of its latest value."""
    # RunData's own `metrics` leaves out at which step they are.
    return {metric.key: metric.step for metric in client.get_run(run_id).data.to_proto().metrics}


def send_points(client: MlflowClient, run_id: str, points: Iterable[dict[str, Any]], sent: dict[str, int]) -> None:
    """Logs `{"images": int, "time": unix seconds, "metrics": {name: float}}`, images being the step.

    What `sent` says is there already is left out, and `sent` learns what is there by then. So a replay of the whole
    telemetry sends every point once, if each metric by itself comes in order of images; where a resumed run has
    written one a second time for the same images, the first counts. If it raises, MLflow may have more than `sent`
    knows: ask it anew.
    """
    batch: dict[tuple[str, int], Metric] = {}

    def flush() -> None:
        client.log_batch(run_id, metrics=list(batch.values()), synchronous=True)
        sent.update((name, images) for name, images in batch)
        batch.clear()

    latest: dict[str, int] = dict(sent)
    for point in points:
        images, time = int(point["images"]), int(point["time"] * 1000)
        for name, value in {**point["metrics"], IMAGES: images}.items():
            if images > latest.get(name, -1):
                batch[name, images] = Metric(name, float(value), time, images)
                latest[name] = images
                if len(batch) == MAX_METRICS_PER_BATCH:
                    flush()
    if batch:
        flush()


def sent_files(client: MlflowClient, run_id: str, folder: str) -> set[str]:
    """The artifact paths in a folder of the run's artifacts."""
    return {file.path for file in client.list_artifacts(run_id, folder)}


def log_file(client: MlflowClient, run_id: str, data: bytes, artifact_path: str) -> None:
    """Stores `data` among the run's artifacts at `artifact_path`, such as `grids/000020000.png`."""
    path = PurePosixPath(artifact_path)
    with TemporaryDirectory() as folder:
        file = Path(folder, path.name)
        file.write_bytes(data)
        client.log_artifact(run_id, str(file), None if path.parent == PurePosixPath(".") else str(path.parent))


def log_files(client: MlflowClient, run_id: str, files: dict[str, bytes], folder: str) -> None:
    """Stores files by name in a folder of the run's artifacts, such as `release/page`."""
    with TemporaryDirectory() as temporary:
        for name, data in files.items():
            Path(temporary, name).write_bytes(data)
        client.log_artifacts(run_id, temporary, folder)


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


def _known_runs(client: MlflowClient, experiment: str, run_name: str) -> list[Run]:
    """Oldest first."""
    return client.search_runs(
        [experiment], f"tags.`ganline.run` = '{run_name}'", ViewType.ACTIVE_ONLY, 10, ["attributes.start_time ASC"]
    )


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
