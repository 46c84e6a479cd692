"""The pages on releases among their runs' artifacts, which show training images: deleted with the images."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient

from pipeline.patience import first_line
from pipeline.redact import redact_within
from pipeline.registry.reported import PAGE
from pipeline.registry.trained_on import TrainedOn

_FOLDER, _PAGES = "release", "release/page-"


def drop_pages(client: MlflowClient, releases: Iterable[TrainedOn]) -> list[str]:
    """Deletes the pages of these releases' runs, and the tag that names each release's.

    Gives those that could not be deleted, in words; to try again is to call it again.
    """
    left, runs = [], dict[str, list[str]]()
    for release in releases:
        if release.run_id and release.run_id not in runs:
            runs[release.run_id] = _drop(client, release.run_id)
            left += runs[release.run_id]
        if not runs.get(release.run_id):
            try:
                if PAGE in client.get_model_version(release.model, str(release.version)).tags:
                    client.delete_model_version_tag(release.model, str(release.version), PAGE)
            except MlflowException as error:
                left.append(f"tag {PAGE} of {release.model} version {release.version}: {first_line(error)}")
    return left


def _drop(client: MlflowClient, run: str) -> list[str]:
    """What is left of one run's pages."""
    left = list[str]()
    try:
        try:
            where = client.get_run(run).info.artifact_uri
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return []  # the run was deleted for good, and its artifacts with it
        artifacts = get_artifact_repository(where, client.tracking_uri)
        folders = artifacts.list_artifacts(_FOLDER)
    except Exception as error:  # each artifact store has its own
        return [f"{_FOLDER} of MLflow's run {run}: {redact_within(first_line(error))}"]
    for folder in folders:
        if folder.is_dir and folder.path.startswith(_PAGES):
            try:
                if isinstance(artifacts, LocalArtifactRepository):
                    # MLflow's own unquotes the path once more: with a % in it, that is another place.
                    shutil.rmtree(Path(artifacts.artifact_dir, folder.path))
                else:
                    artifacts.delete_artifacts(folder.path)
                why = "its artifact store deletes nothing" if artifacts.list_artifacts(folder.path) else None
            except Exception as error:  # likewise, and the next is not to stay for it
                why = redact_within(first_line(error))
            if why:
                left.append(f"{folder.path} of MLflow's run {run}: {why}")
    return left
