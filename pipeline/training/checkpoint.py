"""Checkpoints in storage. One is there when its `COMPLETE` file is, which is written last and names the rest.

    <run>/checkpoints/<step>-<nonce>/{*.safetensors, state.json, COMPLETE, KEEP}

The nonce keeps the files of two attempts apart. `KEEP` is in what a finished run ended with. No checkpoint is ever
unpickled.
"""

import json
import logging
import uuid
from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.progress import note
from pipeline.storage import Storage, sha256
from pipeline.training.state import TrainState

SCHEMA = 1
KEPT = 3
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointRef:
    """Names one complete checkpoint. `digest` is the sha256 of its COMPLETE file."""

    run: str
    path: str
    step: int
    images: int
    digest: str


class BadCheckpoint(Exception):
    """Says in one line why a checkpoint is not used."""


def run_folder(run: str) -> str:
    return f"runs/{run}"


def save_checkpoint(storage: Storage, run: str, state: TrainState, batch: int) -> CheckpointRef:
    """Publishes the state, then prunes all but the newest few checkpoints and those to be kept.

    What lies at a later step was passed over when this attempt began, and goes too.
    """
    folder = f"{run_folder(run)}/checkpoints/{state.step:09d}-{uuid.uuid4().hex[:8]}"
    files = {**state.to_files(), "state.json": json.dumps(state.to_json(), allow_nan=True).encode()}
    complete = {
        "schema": SCHEMA, "run": run, "step": state.step, "images": state.step * batch,
        "files": {name: sha256(data) for name, data in files.items()},
    }  # fmt: skip
    marker = json.dumps(complete, indent=1).encode()
    try:
        for name, data in files.items():
            storage.write(f"{folder}/{name}", data)
        storage.write(f"{folder}/COMPLETE", marker)
    except OSError:
        with suppress(OSError):  # on a full disk each attempt would leave its part
            storage.delete_folder(folder)
        raise
    earlier = [other for other in _complete(storage, run) if _step(other) < state.step]
    kept = {folder, *earlier[: KEPT - 1], *(other for other in earlier if storage.exists(f"{other}/KEEP"))}
    for other in _complete(storage, run):
        if other not in kept:
            storage.delete(f"{other}/COMPLETE")  # first, so that what is half deleted does not exist
            storage.delete_folder(other)
    return CheckpointRef(run, folder, state.step, state.step * batch, sha256(marker))


def keep_checkpoint(storage: Storage, checkpoint: CheckpointRef) -> None:
    """Others will name it: no later checkpoint of the run has it pruned."""
    storage.write(f"{checkpoint.path}/KEEP", b"")


def newest_checkpoint(storage: Storage, run: str) -> CheckpointRef | None:
    """The newest checkpoint of this run that verifies; one that does not is passed over, saying so.

    Raises UserError if there are checkpoints but none verifies: beginning anew would throw the run away.
    """
    folders = _complete(storage, run)
    for folder in folders:
        try:
            return verify_checkpoint(storage, run, folder)
        except BadCheckpoint as why:
            note(f"checkpoint {folder} is not used: {why}")
            log.warning("checkpoint %s is not used: %s", folder, why)
    if folders:
        raise UserError(
            f"none of the {len(folders)} checkpoints of run {run} verifies;"
            f" restore {run_folder(run)}/checkpoints from a copy, or delete it to begin anew"
        )
    return None


def newest_step(storage: Storage, run: str) -> int:
    """Of the newest complete checkpoint, by its name alone; 0 if there is none."""
    return next((_step(folder) for folder in _complete(storage, run)), 0)


def delete_unfinished(storage: Storage, run: str) -> None:
    """Clears away what attempts that died left half written. Only the run's one writer may."""
    complete = set(_complete(storage, run))
    for entry in storage.list(f"{run_folder(run)}/checkpoints"):
        if entry.is_folder and entry.path not in complete:
            storage.delete_folder(entry.path)


def verify_checkpoint(storage: Storage, run: str, folder: str) -> CheckpointRef:
    """Reads and hashes every file. Raises BadCheckpoint."""
    try:
        marker = storage.read(f"{folder}/COMPLETE")
        complete = json.loads(marker)
        if (complete["schema"], complete["run"]) != (SCHEMA, run):
            raise BadCheckpoint(f"it belongs to run {complete['run']}, schema {complete['schema']}")
        for name, expected in complete["files"].items():
            if sha256(storage.read(f"{folder}/{name}")) != expected:
                raise BadCheckpoint(f"{name} is not the file that COMPLETE names")
        return CheckpointRef(run, folder, complete["step"], complete["images"], sha256(marker))
    except FileNotFoundError as error:
        raise BadCheckpoint(f"it is not complete ({error})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"its COMPLETE file is damaged ({error!r})") from None


def load_checkpoint(storage: Storage, checkpoint: CheckpointRef, state: TrainState) -> None:
    """Brings `state` to the checkpoint. Raises BadCheckpoint if it changed since it was named."""
    files = read_files(storage, checkpoint)
    state.load(files, json.loads(files["state.json"]))


def read_files(storage: Storage, checkpoint: CheckpointRef) -> dict[str, bytes]:
    """Every file of a checkpoint, each verified. Raises BadCheckpoint."""
    marker = storage.read(f"{checkpoint.path}/COMPLETE")
    if sha256(marker) != checkpoint.digest:
        raise BadCheckpoint(f"{checkpoint.path} is no longer the checkpoint that was named")
    files = {}
    for name, expected in json.loads(marker)["files"].items():
        files[name] = storage.read(f"{checkpoint.path}/{name}")
        if sha256(files[name]) != expected:
            raise BadCheckpoint(f"{checkpoint.path}/{name} is not the file that COMPLETE names")
    return files


def _complete(storage: Storage, run: str) -> list[str]:
    """Folders with a COMPLETE file, newest first. One without may be one that is being written."""
    entries = storage.list(f"{run_folder(run)}/checkpoints")
    folders = [entry.path for entry in entries if entry.is_folder and storage.exists(f"{entry.path}/COMPLETE")]
    return sorted(folders, reverse=True)


def _step(folder: str) -> int:
    return int(folder.rpartition("/")[2].partition("-")[0])
