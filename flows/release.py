"""Images in, a released generator out: the whole way, as one Prefect flow."""

from contextvars import ContextVar
from dataclasses import dataclass

from prefect import flow, runtime

from flows import stages
from flows.automations import check_crashed, tell_of
from flows.cancelling import cancellable
from flows.on_worker import on_worker
from flows.prefect_artifact import tell_prefect
from flows.stage_task import stage_task
from flows.stages import Evaluation, Released, Training
from pipeline.config import Config
from pipeline.recipe import parse_config
from pipeline.redact import redact_all
from pipeline.registry.audit import whoami
from pipeline.shards.manifest import DatasetRef
from pipeline.shards.on_ray import Ingest
from pipeline.storage import Storage


@dataclass(frozen=True)
class Outcome:
    ingest: Ingest
    training: Training
    evaluation: Evaluation
    released: Released


# What the flow's parameters say, with the secrets in it: Prefect stores parameters.
_unredacted: ContextVar[tuple[Config, Storage] | None] = ContextVar("unredacted", default=None)


def run_release(config: Config, storage: Storage, restart: bool, fork: str | None = None) -> Outcome:
    """Runs the flow, and lets Prefect have no secret that `config` or the storage root's URI may hold."""
    token = _unredacted.set((config, storage))
    try:
        with cancellable() as on_running:
            followed = release_generator.with_options(on_running=[on_running])
            return followed(redact_all(config.model_dump(mode="json")), storage.name, restart, fork)
    finally:
        _unredacted.reset(token)


@flow(name="release", validate_parameters=False)
def release_generator(
    recipe: dict, storage_uri: str, restart: bool = False, fork: str | None = None, instead_of: str | None = None
) -> Outcome:
    """Shards the images, trains on them unless something is wrong with them, measures the generator, releases it if it
    is the best so far. `instead_of`: the id of the crashed flow run that this one goes on with."""
    if given := _unredacted.get():
        return _release(*given, restart, fork)
    config, storage = parse_config(recipe, "the flow's recipe"), Storage(storage_uri)
    check_crashed(instead_of)
    with on_worker(config, storage, restart, fork):
        outcome = _release(config, storage, restart, fork)
    tell_of(outcome.released)
    return outcome


def _release(config: Config, storage: Storage, restart: bool, fork: str | None) -> Outcome:
    ingest = shard(config, storage)
    admit(config, storage, ingest.dataset)
    # Called, not submitted: training wants the main thread, where signals arrive.
    training = train(config, storage, ingest.dataset, restart, fork)
    evaluation = evaluate(config, storage, ingest.dataset, training)
    return Outcome(ingest, training, evaluation, release(config, storage, ingest.dataset, training, evaluation))


@stage_task
def shard(config: Config, storage: Storage) -> Ingest:
    return stages.shard(storage, config)


@stage_task
def admit(config: Config, storage: Storage, dataset: DatasetRef) -> None:
    stages.admit(storage, config, dataset)


@stage_task
def train(config: Config, storage: Storage, dataset: DatasetRef, restart: bool, fork: str | None) -> Training:
    # A retry goes on with what the first attempt began anew.
    return stages.train(storage, config, dataset, restart and runtime.task_run.run_count == 1, fork)


@stage_task
def evaluate(config: Config, storage: Storage, dataset: DatasetRef, training: Training) -> Evaluation:
    generator, _ = stages.candidate(storage, config, dataset, training)
    return stages.evaluate(storage, config, dataset, generator)


@stage_task
def release(
    config: Config, storage: Storage, dataset: DatasetRef, training: Training, evaluation: Evaluation
) -> Released:
    by = f"flow run {runtime.flow_run.name}, {whoami()}"
    released = stages.release(storage, config, dataset, training, evaluation, by)
    if released.page:
        tell_prefect(storage, released.release, evaluation.metrics, released.page)
    return released
