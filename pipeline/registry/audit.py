"""The record of what was decided about a version: one file for each decision among the version's own artifacts.

    <the version's artifacts>/decisions/<time>-<nonce>.json

A file is never written over, so the record only grows. Its name is its `id`, and names are in the order of time.
"""

import getpass
import json
import os
import re
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from pipeline.digest import canonical_json
from pipeline.patience import first_line
from pipeline.redact import redact_within

FOLDER = "decisions"
SCHEMA = 1

_KINDS = {"promoted": bool, "rule": str, "reason": str, "figures": dict}
_FILE = re.compile(FOLDER + r"/[0-9TZ.]+-[0-9a-f]{8}\.json")


def new_id() -> str:
    """Later ones come later in the alphabet, as far as the clocks of who decides agree."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}"


def decided_at(entry: str) -> str:
    """ISO 8601, UTC, of the id of an entry."""
    return f"{datetime.strptime(entry.partition('-')[0], '%Y%m%dT%H%M%S.%fZ'):%Y-%m-%dT%H:%M:%SZ}"


def whoami() -> str:
    """The user, machine and process that decides."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may have a number for a user, and no name for it
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


def write(client: MlflowClient, version: ModelVersion, entry: dict[str, Any]) -> None:
    """Stores JSON values with the `id` that they have; raises ValueError for one that `new_id` did not give."""
    if not _FILE.fullmatch(f"{FOLDER}/{entry['id']}.json"):  # it may come from a tag, which anybody can set
        raise ValueError(f"the id of a decision can not be {entry['id']!r}")
    with TemporaryDirectory() as folder:
        file = Path(folder, f"{entry['id']}.json")
        file.write_bytes(canonical_json({"schema": SCHEMA, **entry}))
        _artifacts(client, version).log_artifact(str(file), FOLDER)


def is_written(client: MlflowClient, version: ModelVersion, entry: str) -> bool:
    return f"{FOLDER}/{entry}.json" in _files(_artifacts(client, version))


def read(client: MlflowClient, version: ModelVersion) -> list[dict[str, Any]]:
    """Every decision about a version, the newest first. A file that can not be read is told of in its place."""
    artifacts, entries = _artifacts(client, version), []
    with TemporaryDirectory() as folder:
        for path in sorted(_files(artifacts), reverse=True):
            told = {"id": Path(path).stem}
            try:
                entry = json.loads(Path(artifacts.download_artifacts(path, folder)).read_bytes())
                whole = all(isinstance(entry[key], kind) for key, kind in _KINDS.items())
                whole &= isinstance(entry.get("checks", []), list)  # which one that was completed from the tag has not
                entries.append({**entry, **told} if whole else {**told, "reason": f"{path} is damaged"})
            except (ValueError, KeyError, TypeError):
                entries.append({**told, "reason": f"{path} is damaged"})
            except Exception as error:  # each artifact store has its own
                entries.append({**told, "reason": f"{path} can not be read: {redact_within(first_line(error))}"})
    return entries


def _files(artifacts: ArtifactRepository) -> set[str]:
    return {file.path for file in artifacts.list_artifacts(FOLDER) if _FILE.fullmatch(file.path)}


def _artifacts(client: MlflowClient, version: ModelVersion) -> ArtifactRepository:
    return get_artifact_repository(version.source or "", client.tracking_uri)
