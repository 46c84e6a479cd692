"""Training on a group of Ray Train's workers, and on another after it, as long as there are machines and steps left.

Ray Train starts a group's workers, joins them in a process group and tells when one dies. What follows is decided
here: how many workers the next group has, and whether there is one. What it resumes from is read from our own
checkpoint store, so Ray's bookkeeping can break without losing a run.
"""

import os
import time
import uuid
from dataclasses import dataclass
from threading import Thread

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

from pipeline.config import Config
from pipeline.errors import Unavailable, UserError, WorkerFailed
from pipeline.progress import note
from pipeline.storage import Storage
from pipeline.training.checkpoint import newest_step
from pipeline.training.job import Job
from pipeline.training.plan import RunPlan
from pipeline.training.prometheus.on_ray import Gauges
from pipeline.training.pulse.on_ray import Listener, Pulse, kill
from pipeline.training.resources.on_ray import Missing, Share, draining, room_for, share_of, wait_for_room
from pipeline.training.run import clear_stop, stop_reason, told_failure
from pipeline.training.watch import REGROUP, Watch
from pipeline.training.worker import work

_FAILURES = 3  # in a row without a step saved between them, after which it is no use
_LOOK_SECONDS = 1.0
_GROW_SECONDS = 10.0  # for which there must be room for more workers: a group's end costs some seconds too
_RAY_FOLDER = "cache/ray"
_NO_RETRIES = {"max_failures": 0, "controller_failure_limit": 0, "max_preemption_failures": 0}
_RAY_SETTINGS = {
    # How often Ray Train looks after its workers: by its default of 2 s, every end and every death is noticed late.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # A process more in each group, for what is looked for here.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def train_on_ray(storage: Storage, config: Config, plan: RunPlan, watch: Watch) -> None:
    """To the last step, or to a stop word. Raises WorkerFailed where workers die again and again at the same place,
    UserError or Unavailable where the cluster has no room for them."""
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    watch.show = Gauges(plan.run, config.name).show
    share = share_of(config)
    failures, saved, groups = 0, newest_step(storage, plan.run), 0
    while True:
        try:
            # To a cluster of our own no machine comes; but what a dead group held is not free at once.
            patient = groups or os.environ.get("RAY_ADDRESS")
            workers = wait_for_room(share, config.cluster.wait_seconds if patient else 0, watch.stops)
        except Missing as missing:
            if groups:
                raise Unavailable(f"run {plan.run} has a checkpoint at step {saved}, but {missing}") from None
            raise UserError(f"{missing}; ask for fewer with cluster.workers, or add nodes") from None
        if not workers:
            return
        groups += 1
        failure = _Group(storage, config, plan, share, workers).run(watch)
        before, saved = saved, newest_step(storage, plan.run)
        failures = 0 if saved > before else failures
        if failure is None and stop_reason(storage, plan.run) != REGROUP:
            return
        if watch.stopped_for or told_failure(storage, plan.run):
            return
        clear_stop(storage, plan.run)
        if failure:
            failures += 1
            if failures > _FAILURES or not isinstance(failure, TrainingFailedError):
                raise _innermost(failure)
            note(f"{_innermost(failure)}; a new group of workers goes on from step {saved}")


@dataclass
class _Group:
    """Workers that live and die together."""

    storage: Storage
    config: Config
    plan: RunPlan
    share: Share
    workers: int

    def run(self, watch: Watch) -> BaseException | None:
        """Until they end, or one fails; returns what it failed with."""
        # Ray refuses a second run in a folder that holds a first; what it keeps there is of no use afterwards.
        name = f"{self.plan.run}-{uuid.uuid4().hex[:8]}"
        job = Job(self.storage, self.config, self.plan, self.share.cpus_each)
        trainer = ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config={"job": job, "group": name},
            scaling_config=ScalingConfig(
                num_workers=self.workers,
                use_gpu=self.share.on_gpus,
                resources_per_worker=self.share.bundle(),
                placement_strategy=self.config.cluster.placement,
            ),
            run_config=RunConfig(  # type: ignore[call-arg]  # mypy takes the older class of that name
                name=name,
                storage_path=self.storage.child_uri(_RAY_FOLDER),
                failure_config=FailureConfig(**_NO_RETRIES),  # type: ignore[arg-type]
                worker_runtime_env=_runtime_env(self.config),
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
        care = _Care(self, watch, Listener(name, self.workers, self.config.cluster.stall_seconds))
        while thread.is_alive():
            thread.join(_LOOK_SECONDS)
            watch.look()
            care.look()
        care.listener.forget()
        self.storage.delete_folder(f"{_RAY_FOLDER}/{name}")
        return failure[0] if failure else None


class _Care:
    """Ends a group that can not go on as it is, or could go on with more workers."""

    def __init__(self, group: _Group, watch: Watch, listener: Listener):
        self._group, self._watch, self.listener = group, watch, listener
        self._room_since: float | None = None
        self._killed: set[int] = set()
        self._ending = False

    def look(self) -> None:
        for beat in self.listener.silent():
            if beat.rank in self._killed:
                continue
            self._killed.add(beat.rank)
            patience, step = self._group.config.cluster.stall_seconds, self.listener.step
            where = f"process {beat.pid} on {beat.host}"
            note(f"worker {beat.rank} ({where}) is silent for {patience} s; its last step is {step}: it is ended")
            kill(beat)
        if self._ending:
            return
        if leaving := draining() & self.listener.nodes:
            if ray.get_runtime_context().get_node_id() in leaving:
                self._end("the machine of this command is drained", regroup=False)
            else:
                self._end(f"a machine is drained ({', '.join(node[:8] for node in leaving)})")
        elif self._could_grow():
            self._end("there is room for more workers")

    def _could_grow(self) -> bool:
        missing = self._group.share.most - self._group.workers
        if not missing or not self.listener.nodes or not room_for(self._group.share):
            self._room_since = None
            return False
        self._room_since = self._room_since or time.monotonic()
        return time.monotonic() - self._room_since > _GROW_SECONDS

    def _end(self, why: str, regroup: bool = True) -> None:
        self._ending = True
        if self._watch.stopped_for:
            return
        note(f"{why}: the run {'goes on with another group' if regroup else 'stops'} after a checkpoint")
        if regroup:
            self._watch.regroup()
        else:
            self._watch.stop(why)


def _worker(arguments: dict) -> None:
    pulse = Pulse(arguments["group"], ray.train.get_context().get_world_rank())
    try:
        work(arguments["job"], ray.train.torch.get_device(), pulse.at_step)
    finally:
        pulse.end()


def _runtime_env(config: Config) -> dict | None:
    """gloo and NCCL read their settings when the process group is made, before anything of ours runs."""
    return {"env_vars": config.cluster.environment} if config.cluster.environment else None


def _innermost(error: BaseException) -> BaseException:
    """The first worker's own error, which Ray wraps twice; where one died, the others fail for want of it."""
    if isinstance(error, TrainingFailedError):
        failures = getattr(error, "worker_failures", {})
        for rank, failure in failures.items():
            if isinstance(getattr(failure, "health_check_failure", failure), RayActorError):
                return WorkerFailed(f"worker {rank} died: killed, out of memory, or its machine is gone")
        for failure in failures.values():
            return WorkerFailed(f"a worker failed: {str(failure).strip().splitlines()[-1]}")
    return error
