"""The training stage: a dataset version to a checkpoint, on as many workers as there are.

Ray Train starts the workers, joins them in a process group, and starts the group again when one dies. What
to resume from is read from our own checkpoint store, so Ray's bookkeeping can break without losing a run.
"""

import logging
import os
import uuid
from dataclasses import dataclass
from threading import Thread

import ray
import ray.train
import ray.train.torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

from pipeline.config import Config
from pipeline.errors import RunFailed, Stopped, UserError, WorkerFailed
from pipeline.on_ray import cluster
from pipeline.progress import Progress, note, report
from pipeline.storage import Storage
from pipeline.training.checkpoint import CheckpointRef, delete_unfinished, newest_checkpoint
from pipeline.training.plan import RunPlan
from pipeline.training.run import ask_to_stop, clear_words, told_failure
from pipeline.training.signals import on_stop_signal
from pipeline.training.telemetry import read_points
from pipeline.training.worker import Job, work

_REPORT_SECONDS = 3.0
_DEFAULT_CPU_WORKERS = 2
_GROUP_RESTARTS = 3  # after a worker died
_RAY_FOLDER = "cache/ray"
# How often Ray Train looks after its workers: by its default of 2 s, every end and every death is noticed late.
_POLL_SECONDS = "0.5"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """`resumed_from`: the image that this attempt began at, 0 for a new run."""

    checkpoint: CheckpointRef
    resumed_from: int


def train_on_ray(storage: Storage, config: Config, plan: RunPlan) -> Trained:
    """Trains until `training.images`, from the run's newest checkpoint if there is one.

    The caller is the run's only writer. Raises Stopped, with a checkpoint written, after Ctrl-C, SIGTERM or a
    stop word in the run's folder; RunFailed where trying again would not help.
    """
    run = plan.run
    clear_words(storage, run)
    delete_unfinished(storage, run)
    start = newest_checkpoint(storage, run)
    resumed_from = start.images if start else 0
    if start and start.step >= plan.total_steps:
        return Trained(start, resumed_from)
    if start:
        note(f"run {run} continues from image {resumed_from:,}")

    def stop(signal_name: str) -> None:
        note(f"{signal_name}: stopping at a checkpoint; once more to stop without one")
        ask_to_stop(storage, run, signal_name)

    with cluster(), on_stop_signal(stop) as signal:
        report(Progress("train", resumed_from, config.training.images))
        _fit(storage, config, plan)
    if failure := told_failure(storage, run):
        raise RunFailed(f"{failure}; lower training.learning_rate or raise training.r1")
    clear_words(storage, run)
    checkpoint = newest_checkpoint(storage, run)
    if checkpoint is None:
        raise Stopped(f"run {run} stopped before its first step", signal.number)
    if signal.number or checkpoint.step < plan.total_steps:  # a wish to stop is no wish to release
        raise Stopped(f"run {run} stopped at image {checkpoint.images:,}", signal.number)
    return Trained(checkpoint, resumed_from)


def _fit(storage: Storage, config: Config, plan: RunPlan) -> None:
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _POLL_SECONDS)
    workers, cpus_each, on_gpus = _share(config)
    # Ray refuses a second run in a folder that holds a first; what it keeps there is of no use afterwards.
    attempt = f"{plan.run}-{uuid.uuid4().hex[:8]}"
    job = Job(storage, config, plan, cpus_each)
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=on_gpus,
            resources_per_worker={"CPU": cpus_each} | ({"GPU": 1} if on_gpus else {}),
        ),
        run_config=RunConfig(
            name=attempt,
            storage_path=storage.child_uri(_RAY_FOLDER),
            failure_config=FailureConfig(max_failures=_GROUP_RESTARTS),
        ),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    # In a thread: from the main thread Ray would take SIGINT for itself and abort the workers without notice.
    thread = Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_REPORT_SECONDS)
        _report(storage, config, plan.run)
    storage.delete_folder(f"{_RAY_FOLDER}/{attempt}")
    if failure:
        raise _innermost(failure[0])


def _share(config: Config) -> tuple[int, int, bool]:
    """Workers, CPUs for each, and whether they have GPUs. Raises UserError for more than there are."""
    resources, nodes = ray.cluster_resources(), [node for node in ray.nodes() if node["Alive"]]
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    workers = config.cluster.workers or min(gpus or min(cpus, _DEFAULT_CPU_WORKERS), config.data.streams)
    have, what = (gpus, "GPUs") if gpus else (cpus, "CPUs")
    if workers > have:
        raise UserError(f"cluster.workers is {workers} but Ray has {have} {what}; ask for fewer, or add nodes")
    # On several nodes nobody knows which worker lands where, so each asks for what any node can give.
    cpus_each = max(1, cpus // workers) if len(nodes) == 1 and not gpus else 1
    return workers, cpus_each, gpus > 0


def _worker(arguments: dict) -> None:
    work(arguments["job"], ray.train.torch.get_device())


def _report(storage: Storage, config: Config, run: str) -> None:
    try:
        points = read_points(storage, run)
    except OSError:  # the run goes on, seen or not
        log.warning("cannot read the telemetry of %s now", run, exc_info=True)
        return
    if points:
        report(Progress("train", points[-1]["images"], config.training.images, points[-1]["metrics"]))


def _innermost(error: BaseException) -> BaseException:
    """The first worker's own error, which Ray wraps twice."""
    if isinstance(error, TrainingFailedError):
        for failure in getattr(error, "worker_failures", {}).values():
            return WorkerFailed(f"a worker failed: {str(failure).strip().splitlines()[-1]}")
    return error
