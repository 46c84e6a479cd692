"""A generator as MLflow's own kind of model: weights, spec, and code that its tools can serve."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from pipeline.registry.artifact import ENCODER, SPEC, WEIGHTS

FOLDER = "artifacts"  # MLflow's name for where a pyfunc's files lie in its model
_NEEDED = ("mlflow", "ganline", "torch", "safetensors", "numpy", "pandas", "pillow")  # by what it does there
_CODE = Path(__file__).with_name("pyfunc_model.py")


def log_generator(
    client: MlflowClient,
    run_id: str,
    weights: bytes,
    document: bytes,
    encoder: bytes | None,
    classes: int,
    lineage: dict[str, Any],
) -> LoggedModel:
    """A whole LoggedModel of this run: `artifacts/` holds `weights`, `document` and any `encoder` byte for byte.

    `lineage` is what it was made from and how, with the `images` seen; MLflow shows it as the model's metadata.
    Unlike `mlflow.pyfunc.log_model`, touches no global state of MLflow's and makes no image.
    """
    experiment = client.get_run(run_id).info.experiment_id
    # A name of MLflow's may hold no dot, ours may.
    model = client.create_logged_model(experiment, "generator", run_id, model_type="generator")
    try:
        with TemporaryDirectory() as temporary:
            with _quiet():
                _save(Path(temporary), model, weights, document, encoder, classes, lineage)
            client.log_model_artifacts(model.model_id, str(Path(temporary, "model")))
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=int(lineage["images"]))])
    except BaseException:
        with suppress(MlflowException):
            client.finalize_logged_model(model.model_id, "FAILED")
        raise
    return client.finalize_logged_model(model.model_id, "READY")


def _save(
    folder: Path,
    model: LoggedModel,
    weights: bytes,
    document: bytes,
    encoder: bytes | None,
    classes: int,
    lineage: dict[str, Any],
) -> None:
    files = {"weights": (WEIGHTS, weights), "spec": (SPEC, document)}
    if encoder is not None:
        files["encoder"] = (ENCODER, encoder)
    for name, data in files.values():
        (folder / name).write_bytes(data)
    example = {"seed": [0, 0], "index": [0, 1]}
    columns: list[ColSpec | TensorSpec] = [ColSpec(DataType.long, "seed"), ColSpec(DataType.long, "index")]
    if classes:
        example["label"] = [0, classes - 1]
        columns.append(ColSpec(DataType.long, "label", required=False))
    signature = ModelSignature(
        Schema(columns),
        Schema([ColSpec(DataType.string, "image")]),
        ParamSchema([ParamSpec("truncation", DataType.double, 1.0)]),
    )
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        python_model=str(_CODE),
        artifacts={key: str(folder / name) for key, (name, _) in files.items()},
        signature=signature,
        input_example=pd.DataFrame(example),
        # Named, or MLflow runs the model in a process of its own to find out.
        pip_requirements=[f"{name}=={_release(name)}" for name in _NEEDED],
        metadata={"ganline": lineage},
        # Or it copies the project files of whichever folder we were started in.
        uv_project_path=str(folder),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            run_id=model.source_run_id,
            model_id=model.model_id,
        ),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow says on standard error that it compares the example with the signature."""
    logger = logging.getLogger("mlflow.pyfunc")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _release(name: str) -> str:
    """The installed version, without a local build's `+cpu`: no index has that one."""
    return metadata.version(name).partition("+")[0]
