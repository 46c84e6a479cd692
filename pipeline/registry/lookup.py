"""From `mnist@champion` to what was released under it. Quick: no torch, and MLflow only when asked."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.registry.artifact import ENCODER, SPEC, WEIGHTS, read_release
from pipeline.registry.reference import LOCK, check_model_name, parse
from pipeline.registry.server import client as connect
from pipeline.storage import Storage, default_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.tracking import MlflowClient

    from pipeline.registry.generator import Generator

__all__ = ["Found", "load", "lookup", "parse", "registered", "resolve"]


@dataclass(frozen=True)
class Found:
    """A released version: what it is, where it came from, and the sha256 of its files.

    `metrics` are the latest finite figures of its run; `alias` is None if it was asked for by number; `uri`
    is the whole model's, as MLflow has it, and its files lie in `folder` below. `encoder_sha256` is None without one.
    """

    model: str
    version: int
    alias: str | None
    run_id: str
    dataset: str
    config: str
    metrics: dict[str, float]
    uri: str
    weights_sha256: str
    spec_sha256: str
    folder: str = ""
    encoder_sha256: str | None = None


def lookup(reference: str, storage: Storage) -> Found:
    """What `MODEL@ALIAS` or `MODEL@VERSION` names now; raises UserError if that is nothing."""
    return _lookup(reference, storage)[0]


def load(reference: str, storage: Storage | None = None) -> "Generator":
    """The generator that `MODEL@ALIAS` names now, verified, from the local cache if it is there.

    Nothing is unpickled and no code of the artifact runs. Raises UserError for an unknown release,
    ArtifactError if its files are gone or are not those that were released.
    """
    storage = storage or Storage(default_uri())
    found, tracking_uri = _lookup(reference, storage)
    files = f"{found.uri}/{found.folder}" if found.folder else found.uri
    sha256s = {WEIGHTS: found.weights_sha256, SPEC: found.spec_sha256}
    if found.encoder_sha256 is not None:
        sha256s[ENCODER] = found.encoder_sha256
    read = read_release(storage, found.model, found.version, files, tracking_uri, sha256s)

    from pipeline.registry.generator import generator_from_files

    return generator_from_files(read[WEIGHTS], read[SPEC], read.get(ENCODER), found)


def registered(client: "MlflowClient", model: str) -> "RegisteredModel":
    """The model as the registry has it, with its aliases; raises UserError that names those that exist."""
    from mlflow.exceptions import MlflowException

    check_model_name(model)
    try:
        return client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        names = [one.name for one in client.search_registered_models(max_results=100) if LOCK not in one.name]
        raise UserError(f"there is no model {model}; there is {', '.join(names[:20]) or 'none yet'}") from None


def resolve(client: "MlflowClient", model: str, which: str | int) -> "ModelVersion":
    """The version under an alias or a number; raises UserError that names those that exist."""
    from mlflow.exceptions import MlflowException

    aliases = registered(client, model).aliases
    version = which if isinstance(which, int) else aliases.get(which)
    if version is None:
        existing = ", ".join(sorted(aliases)) or "none yet"
        raise UserError(f"model {model} has no alias {which}; it has {existing}")
    try:
        return client.get_model_version(model, str(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        latest = client.search_model_versions(f"name = '{model}'", max_results=20, order_by=["version_number DESC"])
        existing = ", ".join(str(one.version) for one in latest) or "none yet"
        raise UserError(f"model {model} has no version {version}; it has {existing}") from None


def check_released(version: "ModelVersion") -> None:
    """Raises UserError for a version that somebody made by other means: there is nothing to check it by."""
    for tag in ("ganline.weights.sha256", "ganline.spec.sha256"):
        if tag not in version.tags:
            raise UserError(
                f"version {version.version} of {version.name} has no tag {tag}: Ganline did not release it;"
                " choose another version"
            )


def _lookup(reference: str, storage: Storage) -> tuple[Found, str]:
    model, which = parse(reference)
    client = connect(storage, create=False)
    version = resolve(client, model, which)
    check_released(version)
    tags = version.tags
    found = Found(
        model=model,
        version=int(version.version),
        alias=which if isinstance(which, str) else None,
        run_id=version.run_id or "",
        dataset=tags.get("ganline.dataset", ""),
        config=tags.get("ganline.config", ""),
        metrics=_metrics(client, version.run_id),
        uri=version.source or "",
        weights_sha256=tags["ganline.weights.sha256"],
        spec_sha256=tags["ganline.spec.sha256"],
        folder=tags.get("ganline.folder", ""),
        encoder_sha256=tags.get("ganline.encoder.sha256"),
    )
    return found, client.tracking_uri


def _metrics(client: "MlflowClient", run_id: str | None) -> dict[str, float]:
    from mlflow.exceptions import MlflowException

    if not run_id:
        return {}
    try:
        metrics = client.get_run(run_id).data.metrics
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}  # the run was purged; its release lives on
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
