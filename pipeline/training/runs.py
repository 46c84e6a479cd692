"""The runs of a storage root, and what there is of each."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.locks import is_held
from pipeline.results import all_of
from pipeline.storage import Storage
from pipeline.training.checkpoint import Keeping, Listed, list_checkpoints, reasons_to_keep, run_folder
from pipeline.training.run import LOCK, told_failure, unknown_run
from pipeline.training.telemetry import Follower

RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


@dataclass(frozen=True)
class Run:
    """A run as its folder tells of it. `wanted` is None, and `dataset` empty, where it never came to say.

    `images` seen are those of the newest checkpoint, of a running one those of its telemetry; `figures` are the last
    of each name; `bytes` those of all its files; `reason` says why it failed.
    """

    id: str
    dataset: Mapping[str, str]
    images: int
    wanted: int | None
    state: str
    reason: str | None
    checkpoints: int
    bytes: int
    figures: Mapping[str, float]
    forked_from: Mapping[str, Any] | None


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. `reasons` say why it outlasts a pruning, as far as the storage root tells.

    `marked`: it has a KEEP, so that a release may name it.
    """

    path: str
    step: int
    images: int
    attempt: int
    metrics: Mapping[str, float]
    bytes: int
    marked: bool
    reasons: Sequence[str]


@dataclass(frozen=True)
class Finished:
    """An end of a run, remembered: after how many steps, its checkpoint's path, sha256 of the MLflow store's URI."""

    run: str
    steps: int
    path: str
    tracking: str


def run_names(storage: Storage, chosen: Iterable[str] = ()) -> list[str]:
    """The chosen, or all there are; raises UserError for one that is not there."""
    # What holds a lock alone has been deleted, or is about to begin.
    folders = [entry.path for entry in storage.list("runs") if entry.is_folder]
    there = [
        folder.rpartition("/")[2]
        for folder in folders
        if any(entry.path != f"{folder}/{LOCK}" for entry in storage.list(folder))
    ]
    for name in (chosen := list(chosen)):
        if name not in there:
            raise unknown_run(storage, name, there)
    return list(dict.fromkeys(chosen)) or there


def list_runs(storage: Storage) -> list[Run]:
    """By name."""
    ends = finished_runs(storage)
    return [look_at_run(storage, name, ends) for name in run_names(storage)]


def finished_runs(storage: Storage) -> list[Finished]:
    """Every end of a run that this storage root remembers."""
    return [
        Finished(inputs["run"], inputs["steps"], result["checkpoint"]["path"], inputs["tracking"])
        for inputs, result in all_of(storage, "train")
    ]


def datasets_of_runs(storage: Storage) -> dict[str, str]:
    """By the digest of a dataset version, which runs train on it. Raises UserError for a run that does not say."""
    runs: dict[str, list[str]] = {}
    for run in run_names(storage):
        if digest := _told(storage, run).get("dataset", {}).get("digest"):
            runs.setdefault(digest, []).append(run)
        elif list_checkpoints(storage, run):
            raise UserError(f"{run_folder(run)}/run.json is damaged, and does not say which dataset the run needs")
    return {digest: f"of run {', '.join(names)}" for digest, names in runs.items()}


def look_at_run(storage: Storage, run: str, ends: Sequence[Finished]) -> Run:
    told, listed = _told(storage, run), list_checkpoints(storage, run)
    training = told.get("config", {}).get("training", {})
    wanted, images = training.get("images"), listed[0].images if listed else 0
    running, failure = is_running(storage, run), told_failure(storage, run)
    measured_at, figures = _last_figures(storage, run)
    if running:
        images = max(images, measured_at)
    last_step = -(-wanted // training["batch"]) if wanted else None
    ended = any((end.run, end.steps) == (run, last_step) and listed and end.path == listed[0].path for end in ends)
    state = RUNNING if running else FAILED if failure else FINISHED if ended else STOPPED
    return Run(
        id=run,
        dataset=told.get("dataset", {}),
        images=images,
        wanted=wanted,
        state=state,
        reason=failure if state == FAILED else None,
        checkpoints=len(listed),
        bytes=storage.folder_size(run_folder(run)),
        figures=figures,
        forked_from=told.get("forked_from"),
    )


def is_running(storage: Storage, run: str) -> bool:
    """Whether a process holds the run's lock."""
    return is_held(storage, f"{run_folder(run)}/{LOCK}")


def look_at_checkpoints(storage: Storage, run: str, ends: Sequence[Finished]) -> list[Checkpoint]:
    """The newest first."""
    listed = list_checkpoints(storage, run)
    places = reasons_to_keep(listed, keeping_of(storage, run))
    ended = {end.path for end in ends}
    return [
        Checkpoint(
            path=one.path,
            step=one.step,
            images=one.images,
            attempt=one.attempt,
            metrics=one.metrics,
            bytes=storage.folder_size(one.path),
            marked=one.kept,
            reasons=[
                *places[one.path],
                *(["a finished run ended with it"] if one.path in ended else []),
                *(["the fork began with it"] if begins_fork(storage, one) else []),
            ],
        )
        for one in listed
    ]


def keeping_of(storage: Storage, run: str, last: int | None = None, best: int | None = None) -> Keeping:
    """As given, else as the run's own recipe has it."""
    training, default = _told(storage, run).get("config", {}).get("training", {}), Keeping()
    return Keeping(
        last=training.get("keep_last", default.last) if last is None else last,
        best=training.get("keep_best", default.best) if best is None else best,
    )


def begins_fork(storage: Storage, one: Listed) -> bool:
    """Whether it is the copy of another run's checkpoint."""
    if not one.kept:
        return False
    try:
        return "forked_from" in json.loads(storage.read(f"{one.path}/COMPLETE"))
    except (FileNotFoundError, ValueError):
        return False


def _last_figures(storage: Storage, run: str) -> tuple[int, dict[str, float]]:
    """The images of the last point of telemetry, and of each metric the last value."""
    follower, images, figures = Follower(storage, run), 0, dict[str, float]()
    while points := follower.new_points():
        images = points[-1]["images"]
        for point in points:
            figures |= point["metrics"]
    follower.close()
    return images, figures


def _told(storage: Storage, run: str) -> dict[str, Any]:
    """What the run says of itself; nothing where it died before it could."""
    try:
        return storage.read_json(f"{run_folder(run)}/run.json")
    except (FileNotFoundError, ValueError):
        return {}
