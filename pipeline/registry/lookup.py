"""From `mnist@champion` to what was released under it. Quick: no torch, and MLflow only when asked."""

import dataclasses
import math
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.errors import Unavailable, UserError
from pipeline.progress import note
from pipeline.registry.artifact import ENCODER, SPEC, WEIGHTS, read_release
from pipeline.registry.found import Found
from pipeline.registry.reference import LOCK, check_model_name, parse
from pipeline.registry.resolved import forget_found, now, recall_found, remember_found
from pipeline.registry.server import client as connect
from pipeline.registry.server import outages, tracking_uri
from pipeline.storage import Storage, cache_root, default_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.tracking import MlflowClient

    from pipeline.registry.generator import Generator

__all__ = ["Found", "ask", "load", "load_found", "lookup", "parse", "registered", "resolve"]


def lookup(reference: str, storage: Storage, known: Found | None = None) -> Found:
    """What `MODEL@ALIAS` or `MODEL@VERSION` names now; raises UserError if that is nothing. `known`: see `ask`.

    While the registry is away, what it named when it was last loaded here, `stale`, and a note says so; Unavailable if
    it never was. A registry that answers that there is no such release is not away.
    """
    try:
        return ask(reference, storage, known)
    except Unavailable as away:
        found = recall_found(storage, *parse(reference))
        if found is None:
            raise
        said = found.as_of[:19].replace("T", " ")
        note(f"{found.model}@{found.which} is version {found.version}, as the registry said at {said} UTC: {away}")
        return found


def ask(reference: str, storage: Storage, known: Found | None = None) -> Found:
    """As `lookup`, but of the registry alone; raises Unavailable if that does not answer.

    Within ten seconds for a server that does not from the first; one that falls silent amid the look-up may cost two
    minutes. Of the release `known` the metrics are not asked for again: for who looks every few seconds, or wants a
    generator and no figures.
    """
    model, which = parse(reference)
    client = connect(storage, create=False)
    with outages(storage):
        try:
            version = resolve(client, model, which)
            check_released(version)
        except UserError:
            forget_found(storage, model, which)
            raise
        found = _found(version, which)
        if known and found.is_release(known):
            return dataclasses.replace(found, metrics=known.metrics)
        return dataclasses.replace(found, metrics=_metrics(client, version.run_id))


def _found(version: "ModelVersion", which: str | int) -> Found:
    """Without its metrics, which its run has."""
    tags = version.tags
    return Found(
        model=version.name,
        version=int(version.version),
        alias=which if isinstance(which, str) else None,
        run_id=version.run_id or "",
        dataset=tags.get("ganline.dataset", ""),
        config=tags.get("ganline.config", ""),
        metrics={},
        uri=version.source or "",
        weights_sha256=tags["ganline.weights.sha256"],
        spec_sha256=tags["ganline.spec.sha256"],
        folder=tags.get("ganline.folder", ""),
        encoder_sha256=tags.get("ganline.encoder.sha256"),
        as_of=now(),
    )


def load(reference: str, storage: Storage | None = None) -> "Generator":
    """The generator that `MODEL@ALIAS` names now, verified, from the local cache if it is there.

    While the registry is away, the one that it named when it was last loaded here: see `lookup`. Its metrics are those
    of when this release was first loaded here. Nothing is unpickled and no code of the artifact runs. Raises UserError
    for an unknown release, ArtifactError if its files are gone or are not those that were released.
    """
    storage = storage or Storage(default_uri())
    return load_found(lookup(reference, storage, recall_found(storage, *parse(reference))), storage)


def load_found(found: Found, storage: Storage | None = None) -> "Generator":
    """Exactly the version that was found, whatever its alias names by now; raises as `load` does."""
    storage = storage or Storage(default_uri())
    generator = _read(Storage(str(cache_root(storage))), found, storage)
    if not found.stale:
        remember_found(storage, found)
    return generator


def load_anew(reference: str, storage: Storage) -> "Generator":
    """As somebody gets it who never had it: of the registry and its artifact store alone, whatever is cached here."""
    found = ask(reference, storage)
    with TemporaryDirectory() as empty:
        return _read(Storage(empty), found, storage)


def _read(cache: Storage, found: Found, storage: Storage) -> "Generator":
    read = read_release(cache, found, tracking_uri(storage))

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

    check_model_name(model)
    try:
        if isinstance(which, int):
            return client.get_model_version(model, str(which))
        return client.get_model_version_by_alias(model, which)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the latter of an alias
            raise
    raise UserError(_instead(client, model, which))


def _instead(client: "MlflowClient", model: str, which: str | int) -> str:
    aliases = registered(client, model).aliases
    if isinstance(which, str) and which not in aliases:
        return f"model {model} has no alias {which}; it has {', '.join(sorted(aliases)) or 'none yet'}"
    latest = client.search_model_versions(f"name = '{model}'", max_results=20, order_by=["version_number DESC"])
    existing = ", ".join(str(one.version) for one in latest) or "none yet"
    return f"model {model} has no version {aliases.get(str(which), which)}; it has {existing}"


def check_released(version: "ModelVersion") -> None:
    """Raises UserError for a version that somebody made by other means: there is nothing to check it by."""
    for tag in ("ganline.weights.sha256", "ganline.spec.sha256"):
        if tag not in version.tags:
            raise UserError(
                f"version {version.version} of {version.name} has no tag {tag}: Ganline did not release it;"
                " choose another version"
            )


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
