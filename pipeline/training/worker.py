"""What each training process does, with or without Ray around it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from ganmodels.ranks import world_size
from ganmodels.saving import from_bytes, load_into
from pipeline.shards.batches import StreamBatches
from pipeline.shards.damage import Skips
from pipeline.shards.manifest import load_manifest
from pipeline.shards.opened import open_view
from pipeline.shards.order import streams_of
from pipeline.shards.read import DatasetReader
from pipeline.training.checkpoint import BEST_BY, CheckpointRef, load_checkpoint, newest_checkpoint
from pipeline.training.clock import Clock
from pipeline.training.determinism import be_deterministic
from pipeline.training.health import NotFinite
from pipeline.training.job import Job
from pipeline.training.loop import Periodic, train
from pipeline.training.measuring import Measurement
from pipeline.training.memory import keep_memory
from pipeline.training.plan import order_of
from pipeline.training.plateau import reached
from pipeline.training.profiling import Profiler
from pipeline.training.recording import Recorder
from pipeline.training.run import is_stop_asked, skips_folder, tell_failure
from pipeline.training.state import TrainState, fresh_state
from pipeline.training.step import make_step
from pipeline.training.together import rank_and_world

_STOP_POLL_SECONDS = 0.5
log = logging.getLogger(__name__)


def work(job: Job, device: torch.device, at_step: Callable[[int], None] = lambda step: None) -> None:
    """Trains this rank's share from the newest checkpoint to the end, or to a stop; `at_step` is told of each step."""
    torch.set_num_threads(job.threads)
    be_deterministic(device)
    keep_memory()
    config, training, plan = job.config, job.config.training, job.plan
    rank, world = rank_and_world()
    state = _begun(job, device)
    if resumed := _agree_on_checkpoint(job, rank):
        load_checkpoint(job.storage, resumed, state)
    streams = streams_of(rank, world, config.data.streams)
    batches = _batches(job, streams)
    step = make_step(state, training, spec=plan.spec, streams=streams, all_streams=config.data.streams, bf16=plan.bf16)
    clock = Clock()
    recorder = Recorder(job, state, clock) if rank == 0 else None
    measure = Measurement(job.storage, config, plan, threads=job.threads) if training.evaluate_images else None
    profiler = Profiler(job.storage, plan.run, training.profile, rank)

    def before_step(number: int) -> None:
        at_step(number)
        profiler.at(number)

    while True:
        try:
            with _stop_asked(job, recorder) if recorder else nullcontext(lambda: False) as wants_stop:
                train(
                    state,
                    step,
                    _loader(job, batches, state.step, device),
                    batch=training.batch,
                    total_steps=plan.total_steps,
                    most_not_finite=training.nonfinite_steps,
                    periodic=_periodic(job, measure, recorder, clock),
                    clock=clock,
                    wants_stop=wants_stop,
                    before_step=before_step,
                    is_done=lambda state: reached(state.best, training.plateau),
                )
            break
        except NotFinite as why:
            if state.health.went_back:  # to begin again from the last checkpoint would only end here again
                if recorder:
                    tell_failure(job.storage, plan.run, f"run {plan.run} diverged: {why}")
                break
            if recorder:
                recorder.close()
            _go_back(job, rank, state, device)
            if recorder:
                recorder = Recorder(job, state, clock)
                recorder.warn("went_back", f"{why}: back to image {state.step * training.batch:,}, at half the rate")
                recorder.checkpoint(state)
    profiler.close()
    batches.reader.close()
    if recorder:
        recorder.finish()


def _begun(job: Job, device: torch.device) -> TrainState:
    """The state before the first step."""
    state = fresh_state(job.plan.spec, job.config.training, device)
    if job.plan.init:
        for network in (state.generator, state.ema):
            load_into(network, from_bytes(job.plan.init))
    return state


def _go_back(job: Job, rank: int, state: TrainState, device: torch.device) -> None:
    """To the last checkpoint before the trouble, with another learning rate: the same would meet the same again."""
    skipped = state.health.skipped
    if before := _agree_on_checkpoint(job, rank, healthy=True):
        load_checkpoint(job.storage, before, state)
    else:
        begun = _begun(job, device)
        state.load(begun.snapshot().to_files(), begun.to_json())
    state.health = state.health.gone_back(skipped)


def _loader(job: Job, batches: StreamBatches, first: int, device: torch.device) -> DataLoader:
    loaders = job.config.data.loaders
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, job.plan.total_steps),
        pin_memory=device.type == "cuda",
        num_workers=loaders,
        # A fork would take Ray's and Arrow's threads along, which do not survive it.
        multiprocessing_context="spawn" if loaders else None,
    )


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


def _agree_on_checkpoint(job: Job, rank: int, healthy: bool = False) -> CheckpointRef | None:
    """Rank 0 chooses, so that no two ranks can resume from different steps."""
    chosen = [newest_checkpoint(job.storage, job.plan.run, healthy) if rank == 0 else None]
    if world_size() > 1:
        dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


def _periodic(job: Job, measure: Measurement | None, recorder: Recorder | None, clock: Clock) -> list[Periodic]:
    """Every rank keeps the same state, its meter too, whether it tells of it or not."""
    training = job.config.training

    def evaluate(state: TrainState) -> None:
        figures = measure(state.ema) if measure else {}
        if figures:
            state.best = state.best.after(figures[BEST_BY], state.step * training.batch)
        if recorder:
            recorder.evaluated(state, figures, measure.names if measure else {})
        else:
            forget(state)

    def forget(state: TrainState) -> None:
        state.meter.clear()
        clock.restart()

    return [
        Periodic(training.evaluate_every, evaluate),
        Periodic(training.log_every, recorder.point if recorder else forget),
        *([Periodic(training.checkpoint_every, recorder.checkpoint, at_stop=True)] if recorder else []),
    ]


@contextmanager
def _stop_asked(job: Job, recorder: Recorder) -> Iterator[Callable[[], bool]]:
    """Whether the stop word is there: a thread looks for it, for storage may be far away or not answer."""
    found, ended = Event(), Event()

    def look() -> None:
        while not ended.wait(_STOP_POLL_SECONDS):
            try:
                if is_stop_asked(job.storage, job.plan.run):
                    found.set()
                    return
            except OSError:
                log.warning("cannot look for the stop word of %s now", job.plan.run, exc_info=True)

    looking = Thread(target=look, name="stop-word", daemon=True)
    looking.start()
    try:
        yield lambda: recorder.superseded or found.is_set()
    finally:
        ended.set()
        looking.join(_STOP_POLL_SECONDS)  # amid a look when Python ends, it could abort the process
