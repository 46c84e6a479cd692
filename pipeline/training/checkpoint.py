"""Checkpoints in storage. One is there when its `COMPLETE` file is, which is written last and names the rest.

    <run>/checkpoints/<step>-<attempt>-<nonce>/{*.safetensors, state.json, COMPLETE, KEEP}

The nonce keeps the files of two writers apart. `KEEP` is in what others name: a finished run's last, a release's. No
checkpoint is ever unpickled.
"""

import json
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.progress import note
from pipeline.storage import Storage, sha256
from pipeline.training.attempt import check_attempt
from pipeline.training.state import Snapshot, TrainState

SCHEMA = 1
BEST_BY = "frechet"  # the lowest
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointRef:
    """Names one complete checkpoint. `digest` is the sha256 of its COMPLETE file."""

    run: str
    path: str
    step: int
    images: int
    digest: str


@dataclass(frozen=True)
class Keeping:
    """How many checkpoints outlast the next one: the newest, and the best by what was measured at them."""

    last: int = 3
    best: int = 1


@dataclass(frozen=True)
class Listed:
    """A complete checkpoint as its COMPLETE file tells of it, unverified. `kept`: others name it."""

    path: str
    step: int
    images: int
    attempt: int
    metrics: Mapping[str, float]
    kept: bool


class BadCheckpoint(Exception):
    """Says in one line why a checkpoint is not used."""


def run_folder(run: str) -> str:
    return f"runs/{run}"


def save_checkpoint(
    storage: Storage,
    run: str,
    snapshot: Snapshot,
    batch: int,
    *,
    attempt: int = 0,
    metrics: Mapping[str, float] | None = None,
    keeping: Keeping = Keeping(),
) -> CheckpointRef:
    """Publishes a state, with what was measured of it, then prunes all checkpoints but those to be kept.

    What an earlier attempt has at a later step was passed over when this one began, and goes too. Raises Superseded,
    with nothing published, where another attempt has begun since; 0 is none that could be.
    """
    folder = new_folder(run, snapshot.step, attempt)
    files = {**snapshot.to_files(), "state.json": json.dumps(snapshot.values, allow_nan=True).encode()}
    about = {
        "run": run, "step": snapshot.step, "images": snapshot.step * batch, "attempt": attempt,
        "metrics": dict(metrics or {}),
    }  # fmt: skip

    def living() -> None:
        if attempt:
            check_attempt(storage, run, attempt)

    checkpoint = publish(storage, folder, files, about, living)
    _prune(storage, run, folder, keeping)
    return checkpoint


def new_folder(run: str, step: int, attempt: int) -> str:
    return f"{run_folder(run)}/checkpoints/{step:09d}-{attempt:04d}-{uuid.uuid4().hex[:8]}"


def publish(
    storage: Storage,
    folder: str,
    files: Mapping[str, bytes],
    about: Mapping[str, Any],
    before_marker: Callable[[], None] = lambda: None,
) -> CheckpointRef:
    """Writes the files, and last the COMPLETE that names them and says what it is `about`: `run`, `step`, `images` and
    more. Leaves nothing where that fails, or where `before_marker` raises."""
    named = {"files": {name: sha256(data) for name, data in files.items()}}
    marker = json.dumps({"schema": SCHEMA, **about, **named}, indent=1).encode()
    try:
        for name, data in files.items():
            storage.write(f"{folder}/{name}", data)
        before_marker()
        storage.write(f"{folder}/COMPLETE", marker)
    except Exception:
        with suppress(OSError):  # on a full disk each attempt would leave its part
            storage.delete_folder(folder)
        raise
    return CheckpointRef(about["run"], folder, about["step"], about["images"], sha256(marker))


def _prune(storage: Storage, run: str, newest: str, keeping: Keeping) -> None:
    attempt, step = _attempt_and_step(newest)
    # A later attempt's are not ours to judge.
    ours = [each for each in _complete(storage, run) if _attempt_and_step(each)[0] <= attempt]
    passed = [each for each in ours if _by_step(each) < step]
    listed = [_told(storage, each) for each in (newest, *sorted(passed, key=_by_step, reverse=True))]
    places = reasons_to_keep(listed, keeping)
    kept = {one.path for one in listed if places[one.path] or one.kept}
    # Of this step there may be one that was passed over as damaged: it stays where others name it, and takes no place.
    kept |= {each for each in ours if each != newest and _by_step(each) == step and _told(storage, each).kept}
    for each in ours:
        if each not in kept:
            delete_checkpoint(storage, each)


def reasons_to_keep(listed: Sequence[Listed], keeping: Keeping) -> dict[str, list[str]]:
    """By path, what places a checkpoint among those to be kept; `listed` are a run's, the newest first."""
    best = by_distance(listed)[: keeping.best]
    return {
        one.path: [
            *([f"last {keeping.last}"] if place < keeping.last else []),
            *([f"best {keeping.best} by {BEST_BY}"] if one in best else []),
        ]
        for place, one in enumerate(listed)
    }


def by_distance(listed: Iterable[Listed]) -> list[Listed]:
    """Those that were measured, the best first; of equals the one that was."""
    measured = [one for one in listed if math.isfinite(one.metrics.get(BEST_BY, math.nan))]
    return sorted(measured, key=lambda one: one.metrics[BEST_BY])


def delete_checkpoint(storage: Storage, path: str) -> None:
    """Its COMPLETE file first, so that what is half deleted does not exist."""
    storage.delete(f"{path}/COMPLETE")
    storage.delete_folder(path)


def list_checkpoints(storage: Storage, run: str) -> list[Listed]:
    """Those with a COMPLETE file, newest first; its damage shows when they are used."""
    return [_told(storage, folder) for folder in _complete(storage, run)]


def _told(storage: Storage, folder: str) -> Listed:
    attempt, step = _attempt_and_step(folder)
    try:
        complete = json.loads(storage.read(f"{folder}/COMPLETE"))
        images, metrics = int(complete["images"]), dict(complete.get("metrics", {}))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        images, metrics = 0, {}
    return Listed(folder, step, images, attempt, metrics, storage.exists(f"{folder}/KEEP"))


def keep_checkpoint(storage: Storage, path: str) -> None:
    """Others will name it: no later checkpoint of the run has it pruned."""
    storage.write(f"{path}/KEEP", b"")


def newest_checkpoint(storage: Storage, run: str, healthy: bool = False) -> CheckpointRef | None:
    """The newest checkpoint of this run that verifies; one that does not is passed over, saying so.

    `healthy`: the newest whose last step was not skipped.

    Raises UserError if there are checkpoints but none verifies: beginning anew would throw the run away.
    """
    folders = _complete(storage, run)
    for folder in folders:
        try:
            found = verify_checkpoint(storage, run, folder)
            if healthy and storage.read_json(f"{folder}/state.json").get("health", {}).get("in_a_row"):
                continue
            return found
        except BadCheckpoint as why:
            note(f"checkpoint {folder} is not used: {why}")
            log.warning("checkpoint %s is not used: %s", folder, why)
    if folders and not healthy:
        raise UserError(
            f"none of the {len(folders)} checkpoints of run {run} verifies;"
            f" restore {run_folder(run)}/checkpoints from a copy, or delete it to begin anew"
        )
    return None


def newest_step(storage: Storage, run: str) -> int:
    """Of the newest complete checkpoint, by its name alone; 0 if there is none."""
    return next((_by_step(folder) for folder in _complete(storage, run)), 0)


def delete_unfinished(storage: Storage, run: str) -> None:
    """Clears away what attempts that died left half written. Only the run's one writer may."""
    for folder in unfinished(storage, run):
        storage.delete_folder(folder)


def unfinished(storage: Storage, run: str) -> list[str]:
    """Folders of checkpoints without a COMPLETE file: half written, or being written."""
    entries = storage.list(f"{run_folder(run)}/checkpoints")
    return [entry.path for entry in entries if entry.is_folder and not storage.exists(f"{entry.path}/COMPLETE")]


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
    """Folders with a COMPLETE file, the newest first. One without may be one that is being written."""
    entries = storage.list(f"{run_folder(run)}/checkpoints")
    folders = [entry.path for entry in entries if entry.is_folder and storage.exists(f"{entry.path}/COMPLETE")]
    return sorted(folders, key=_attempt_and_step, reverse=True)


def _attempt_and_step(folder: str) -> tuple[int, int]:
    """What a later attempt wrote is newer, whatever step an earlier one came to. Earlier names hold no attempt."""
    step, *rest = folder.rpartition("/")[2].split("-")
    return int(rest[0]) if len(rest) == 2 else 0, int(step)


def _by_step(folder: str) -> int:
    return _attempt_and_step(folder)[1]
