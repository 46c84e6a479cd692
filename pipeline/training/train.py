"""The training stage: a dataset version to a checkpoint, on as many workers as there are."""

from dataclasses import dataclass, field

from pipeline.config import Config
from pipeline.errors import RunFailed, Stopped
from pipeline.locks import Held
from pipeline.progress import Progress, note, report
from pipeline.storage import Storage
from pipeline.training.best import best_checkpoint
from pipeline.training.checkpoint import CheckpointRef, delete_unfinished, newest_checkpoint
from pipeline.training.plan import RunPlan
from pipeline.training.plateau import Best, reached
from pipeline.training.run import clear_stop, told_failure
from pipeline.training.signals import on_stop_signal
from pipeline.training.watch import Watch


@dataclass(frozen=True)
class Trained:
    """`resumed_from`: the image that this attempt began at, 0 for a new run. `best`: of what was measured, or the last
    where nothing was. `warnings`: the last of each code that this attempt gave."""

    checkpoint: CheckpointRef
    resumed_from: int
    best: CheckpointRef
    warnings: dict[str, str] = field(default_factory=dict)


def train_run(storage: Storage, config: Config, plan: RunPlan, held: Held) -> Trained:
    """Trains until `training.images` or `training.plateau`, from the run's newest checkpoint if there is one.

    The caller is the run's only writer, by the lock that it has `held`. Raises Stopped, with a checkpoint written,
    after Ctrl-C, SIGTERM, a stop word in the run's folder or `training.max_hours`; RunFailed where trying again would
    not help, now and later.
    """
    run = plan.run
    if failure := told_failure(storage, run):
        raise RunFailed(_failed(failure))
    clear_stop(storage, run)
    delete_unfinished(storage, run)
    start = newest_checkpoint(storage, run)
    resumed_from = start.images if start else 0
    if start and _is_done(storage, config, plan, start):
        return Trained(start, resumed_from, best_checkpoint(storage, run) or start)
    if start:
        note(f"run {run} continues from image {resumed_from:,}")

    report(Progress("train", resumed_from, config.training.images))
    watch = Watch(storage, config, run, held)

    def stop(signal_name: str) -> None:
        note(f"{signal_name}: stopping at a checkpoint; once more to stop without one")
        watch.stop(signal_name)

    if config.cluster.workers == 0:
        from pipeline.training.here import train_here

        with on_stop_signal(stop) as signal:
            train_here(storage, config, plan, watch)
    else:
        from pipeline.on_ray import cluster  # Ray takes seconds to import
        from pipeline.training.on_ray import train_on_ray

        with cluster(), on_stop_signal(stop) as signal:
            train_on_ray(storage, config, plan, watch)
    watch.report()
    if failure := told_failure(storage, run):
        raise RunFailed(_failed(failure))
    clear_stop(storage, run)
    checkpoint = newest_checkpoint(storage, run)
    if checkpoint is None:
        raise Stopped(f"run {run} stopped before its first step", signal.number)
    if signal.number or not _is_done(storage, config, plan, checkpoint):  # a wish to stop is no wish to release
        why = f" ({watch.stopped_for})" if watch.stopped_for and not signal.number else ""
        raise Stopped(f"run {run} stopped at image {checkpoint.images:,}{why}", signal.number)
    return Trained(checkpoint, resumed_from, best_checkpoint(storage, run) or checkpoint, watch.warnings)


def _is_done(storage: Storage, config: Config, plan: RunPlan, checkpoint: CheckpointRef) -> bool:
    if checkpoint.step >= plan.total_steps:
        return True
    best = storage.read_json(f"{checkpoint.path}/state.json").get("best", {})
    return reached(Best(**best), config.training.plateau)


def _failed(failure: str) -> str:
    return (
        f"{failure}; the same again would end there too: lower training.learning_rate or raise training.r1,"
        " or begin it anew with --restart"
    )
