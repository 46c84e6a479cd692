"""What each training process does, with or without Ray around it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from ganmodels.ranks import world_size
from ganmodels.saving import from_bytes, load_into
from pipeline.config import Config
from pipeline.shards.batches import StreamBatches
from pipeline.shards.damage import Skips
from pipeline.shards.manifest import load_manifest
from pipeline.shards.opened import open_view
from pipeline.shards.order import streams_of
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage
from pipeline.training.checkpoint import (
    CheckpointRef,
    load_checkpoint,
    newest_checkpoint,
    run_folder,
    save_checkpoint,
)
from pipeline.training.determinism import be_deterministic
from pipeline.training.grid import sample_grid
from pipeline.training.loop import Clock, Diverged, Periodic, train
from pipeline.training.memory import keep_memory
from pipeline.training.plan import RunPlan, order_of
from pipeline.training.run import is_stop_asked, skips_folder, tell_failure
from pipeline.training.state import TrainState, fresh_state
from pipeline.training.step import make_step
from pipeline.training.telemetry import TelemetryFile

_STOP_POLL_SECONDS = 0.5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Everything a worker needs to know; plain values, so that it can be sent anywhere."""

    storage: Storage
    config: Config
    plan: RunPlan
    threads: int


def work(job: Job, device: torch.device) -> None:
    """Trains this rank's share from the newest checkpoint to the end, or to a stop."""
    torch.set_num_threads(job.threads)
    be_deterministic(device)
    keep_memory()
    config, training = job.config, job.config.training
    rank = dist.get_rank() if world_size() > 1 else 0
    state = fresh_state(job.plan.spec, training, device)
    resumed = _agree_on_checkpoint(job, rank)
    if resumed:
        load_checkpoint(job.storage, resumed, state)
    elif job.plan.init:
        for network in (state.generator, state.ema):
            load_into(network, from_bytes(job.plan.init))

    streams = streams_of(rank, world_size(), config.data.streams)
    batches = DataLoader(
        _batches(job, streams),
        batch_size=None,
        sampler=range(state.step, job.plan.total_steps),
        pin_memory=device.type == "cuda",
        num_workers=config.data.loaders,
        # A fork would take Ray's and Arrow's threads along, which do not survive it.
        multiprocessing_context="spawn" if config.data.loaders else None,
    )
    step = make_step(
        state, training, spec=job.plan.spec, streams=streams, all_streams=config.data.streams, bf16=job.plan.bf16
    )
    clock = Clock()
    try:
        train(
            state,
            step,
            batches,
            batch=training.batch,
            total_steps=job.plan.total_steps,
            periodic=_periodic(job, rank, state, clock),
            clock=clock,
            wants_stop=_stop_poll(job) if rank == 0 else lambda: False,
        )
    except Diverged as why:  # to begin again from the last checkpoint would only end here again
        if rank == 0:
            tell_failure(job.storage, job.plan.run, f"run {job.plan.run} diverged: {why}")


def _batches(job: Job, streams: range) -> StreamBatches:
    """This rank's rows of each step's batch."""
    storage, data, plan = job.storage, job.config.data, job.plan
    view = open_view(storage, plan.dataset, load_manifest(storage, plan.dataset), data)
    # Every stream may be between two windows, in each class that it takes turns with.
    keep_open = len(streams) * (2 * data.window + 1) * (len(view.classes) if view and view.by_class else 1)
    skips = Skips(storage, skips_folder(plan.run)) if data.on_damage == "skip" else None
    reader = DatasetReader(storage, plan.dataset, "train", keep_open, view=view, skips=skips)
    order = order_of(reader.manifest, job.config, view)
    return StreamBatches(reader, order, streams, job.config.training.seed if data.mirror else None)


def _agree_on_checkpoint(job: Job, rank: int) -> CheckpointRef | None:
    """Rank 0 chooses, so that no two ranks can resume from different steps."""
    chosen = [newest_checkpoint(job.storage, job.plan.run) if rank == 0 else None]
    if world_size() > 1:
        dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


def _periodic(job: Job, rank: int, state: TrainState, clock: Clock) -> list[Periodic]:
    training = job.config.training
    if rank > 0:  # every rank keeps the same meter, since it is part of the state
        return [Periodic(training.log_every, lambda state: state.meter.clear())]
    telemetry = TelemetryFile(job.storage, job.plan.run, state.step * training.batch)

    def log_point(state: TrainState) -> None:
        figures = {**state.meter.take(), **clock.take(training.batch)}
        telemetry.append({"images": state.step * training.batch, "time": time.time(), "metrics": figures})

    def checkpoint(state: TrainState) -> None:
        save_checkpoint(job.storage, job.plan.run, state, training.batch)

    def grid(state: TrainState) -> None:
        images = state.step * training.batch
        job.storage.write(f"{run_folder(job.plan.run)}/grids/{images:012d}.png", sample_grid(state.ema, job.plan.spec))

    return [
        Periodic(training.log_every, _forgiving(log_point)),
        Periodic(training.evaluate_every, _forgiving(grid)),
        Periodic(training.checkpoint_every, checkpoint, at_stop=True),
    ]


def _forgiving(act: Callable[[TrainState], None]) -> Callable[[TrainState], None]:
    """What only tells of a run must not end it: a full disk or a slow store costs a point or a picture."""

    def forgiving(state: TrainState) -> None:
        try:
            act(state)
        except OSError:
            log.warning("could not write at step %d", state.step, exc_info=True)

    return forgiving


def _stop_poll(job: Job) -> Callable[[], bool]:
    """Looks for the stop word now and then, not at every step: storage may be far away."""
    looked, found = 0.0, False

    def wants_stop() -> bool:
        nonlocal looked, found
        if not found and time.monotonic() - looked > _STOP_POLL_SECONDS:
            looked = time.monotonic()
            try:
                found = is_stop_asked(job.storage, job.plan.run)
            except OSError:
                log.warning("cannot look for the stop word of %s now", job.plan.run, exc_info=True)
        return found

    return wants_stop
