"""A run that begins, on purpose, with an old checkpoint of another: all its state, under a recipe of its own.

Its first checkpoint is a copy of the old one's files under its own name, so that whatever reads checkpoints needs to
know nothing of it. That copy is kept, and the run that it came from may go on, or go.
"""

import json
from dataclasses import asdict, fields
from typing import Any

from ganmodels.spec import NetworkSpec
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.progress import note
from pipeline.results import recall, remember
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage
from pipeline.training.checkpoint import (
    BadCheckpoint,
    CheckpointRef,
    keep_checkpoint,
    list_checkpoints,
    new_folder,
    newest_checkpoint,
    publish,
    read_files,
    verify_checkpoint,
)
from pipeline.training.run import description


def lineage(origin: CheckpointRef) -> dict[str, Any]:
    """What a fork records of the checkpoint that it began with."""
    return {"run": origin.run, "step": origin.step, "digest": origin.digest}


def find_origin(storage: Storage, named: str) -> CheckpointRef:
    """What `RUN@STEP` names, or `RUN`: its newest. Raises UserError that says which checkpoints there are."""
    run, at, step = named.partition("@")
    description(storage, run)
    if not at:
        newest = newest_checkpoint(storage, run)
        if newest is None:
            raise UserError(f"--fork {named}: run {run} has no checkpoint yet; let it train on")
        return newest
    there = list_checkpoints(storage, run)
    steps = ", ".join(str(step) for step in sorted({listed.step for listed in there})) or "none yet"
    why = "there is no complete checkpoint of that step"
    for listed in there:
        if step.isdecimal() and listed.step == int(step):
            try:
                return verify_checkpoint(storage, run, listed.path)
            except BadCheckpoint as bad:
                why = str(bad)
    raise UserError(f"--fork {named}: {why}; run {run} has {steps}")


def origin_of(
    storage: Storage, config: Config, dataset: DatasetRef | None, named: str, anew: bool
) -> tuple[CheckpointRef, bool]:
    """What the name stands for, and whether that is what it stood for when this fork began.

    `anew` takes what it names now; else a run that goes on, and prunes, would make the same command another fork.
    Raises UserError as `find_origin` does.
    """
    kept = recall(storage, "fork", _inputs(config, dataset, named)) if dataset and not anew else None
    return (CheckpointRef(**kept), True) if kept else (find_origin(storage, named), False)


def keep_origin(storage: Storage, config: Config, dataset: DatasetRef, named: str, origin: CheckpointRef) -> None:
    remember(storage, "fork", _inputs(config, dataset, named), asdict(origin))


def _inputs(config: Config, dataset: DatasetRef, named: str) -> dict[str, Any]:
    return {"fork": named, "dataset": dataset.digest, "recipe": config.run_name(dataset.digest, "")}


def check_no_init(config: Config) -> None:
    """Raises UserError for a recipe that says itself what to start from."""
    if config.training.init:
        raise UserError(
            f"--fork takes all state from a checkpoint, training.init {config.training.init} a generator alone;"
            " leave one of them out"
        )


def check_goes_on(config: Config, origin: CheckpointRef) -> None:
    """Raises UserError where the recipe leaves nothing to train from there, or counts images in other steps."""
    training = config.training
    if origin.images >= training.images:
        raise UserError(
            f"--fork: step {origin.step} of run {origin.run} has seen {origin.images:,} images already;"
            f" raise training.images above that (it is {training.images:,})"
        )
    if origin.images % training.batch:
        raise UserError(
            f"--fork: the {origin.images:,} images of step {origin.step} of run {origin.run} are no whole number of"
            f" batches of {training.batch}; take another step or training.batch"
        )


def check_same_networks(storage: Storage, origin: CheckpointRef, wanted: NetworkSpec) -> None:
    """Raises UserError that names each value of the networks that is another one."""
    there = NetworkSpec.from_dict(description(storage, origin.run)["spec"])
    differing = [
        f"{field.name} is {getattr(there, field.name)} there and {getattr(wanted, field.name)} here"
        for field in fields(NetworkSpec)
        if getattr(there, field.name) != getattr(wanted, field.name)
    ]
    if differing:
        raise UserError(
            f"--fork: run {origin.run} has other networks than the recipe: {', '.join(differing)};"
            " make model.* and data.* fit"
        )


def begin_fork(storage: Storage, run: str, origin: CheckpointRef, dataset: DatasetRef, batch: int) -> None:
    """Publishes the run's first checkpoint, unless it has one. Only the run's one writer may.

    With another batch the step is another one, so that images are counted on. What the old run's remedy did to its
    learning rate is left behind. Raises UserError where the checkpoint to begin with is gone.
    """
    if list_checkpoints(storage, run):
        return
    try:
        files = read_files(storage, origin)
        complete = json.loads(storage.read(f"{origin.path}/COMPLETE"))
        same_data = description(storage, origin.run)["dataset"]["digest"] == dataset.digest
    except (FileNotFoundError, BadCheckpoint):
        raise UserError(
            f"--fork: {origin.path}, which run {run} is to begin with, is gone or damaged;"
            " choose another step, or with --restart the one that the name stands for now"
        ) from None
    step = origin.images // batch
    files["state.json"] = _as_begun(files["state.json"], step, same_data)
    about = {
        "run": run, "step": step, "images": origin.images, "attempt": 0, "forked_from": lineage(origin),
        "metrics": complete.get("metrics", {}) if same_data else {},  # else not to be compared with what comes
    }  # fmt: skip
    folder = new_folder(run, step, 0)
    publish(storage, folder, files, about, lambda: keep_checkpoint(storage, folder))
    note(f"run {run} begins with step {origin.step} of run {origin.run}, image {origin.images:,}")


def _as_begun(data: bytes, step: int, same_data: bool) -> bytes:
    """A state.json for the new run: as it is, if nothing there is the old run's alone."""
    values = json.loads(data)
    went_back = values.get("health", {}).get("rate", 1) < 1
    if values["step"] == step and same_data and not went_back:
        return data
    if went_back:
        del values["health"]
    if not same_data:
        values.pop("best", None)
    return json.dumps({**values, "step": step}, allow_nan=True).encode()
