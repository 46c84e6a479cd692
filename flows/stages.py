"""The stages as plain functions: what the flow's tasks and the single commands call.

A stage whose inputs are what they were gives what it gave, without starting anything.
"""

from dataclasses import asdict, dataclass

from flows.inits import check_same_generator, keep_init, kept_init
from ganmodels.saving import to_bytes
from ganmodels.spec import NetworkSpec
from pipeline.config import Config
from pipeline.digest import canonical_json
from pipeline.errors import Stopped
from pipeline.evaluation.bootstrap import frechet_difference_interval
from pipeline.evaluation.evaluate import Features
from pipeline.evaluation.generated import BadGenerator
from pipeline.evaluation.problems import find_own_problem, find_problem
from pipeline.evaluation.real import TooFewImages
from pipeline.evaluation.remembered import evaluate_once
from pipeline.evaluation.report import EvaluationReport
from pipeline.progress import note
from pipeline.redact import redact_all
from pipeline.registry.gate import Decision, decide
from pipeline.registry.generator import Generator, generator_from_files
from pipeline.registry.lookup import load
from pipeline.registry.releases import Release, register, settle, standing
from pipeline.registry.runs import is_there, log_figures, supersede_run
from pipeline.registry.server import client, tracking_uri
from pipeline.results import recall, remember
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.shards.on_ray import Ingest, shard_images
from pipeline.shards.view import shown_classes
from pipeline.storage import Storage, sha256
from pipeline.training.checkpoint import BadCheckpoint, CheckpointRef, keep_checkpoint, read_files, verify_checkpoint
from pipeline.training.plan import RunPlan, plan_run
from pipeline.training.run import begin_anew, describe, only_writer
from pipeline.training.sink import Sink
from pipeline.training.state import ENCODER_EMA
from pipeline.training.telemetry import read_points
from pipeline.trust import gate
from pipeline.trust.report import report_once


@dataclass(frozen=True)
class Training:
    """A finished run: its checkpoint, its MLflow run, its last figures. `reused`: it was finished before."""

    run: str
    mlflow_run: str
    checkpoint: CheckpointRef
    resumed_from: int
    metrics: dict[str, float]
    reused: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What the gate is told of a candidate. No report: `problem`, or too few held-out images to measure by."""

    report: EvaluationReport | None
    features: Features | None
    problem: str | None

    @property
    def metrics(self) -> dict[str, float]:
        return self.report.metrics if self.report else {}


@dataclass(frozen=True)
class Released:
    release: Release
    reused: bool = False


def shard(
    storage: Storage, config: Config, *, compact: bool = False, rebuild: bool = False, rehash: bool = False
) -> Ingest:
    ingest = shard_images(storage, config.name, config.data, compact=compact, rebuild=rebuild, rehash=rehash)
    report_once(storage, ingest.dataset)
    return ingest


def admit(storage: Storage, config: Config, dataset: DatasetRef) -> None:
    """Raises UserError for a dataset version too unlike the last that was trained on; see `data.gate`."""
    gate.admit(storage, dataset, config.data.gate)


def plan(storage: Storage, config: Config, dataset: DatasetRef, anew: bool = False) -> RunPlan:
    """The run that a recipe on a dataset is, with the weights that it starts from, if it names any.

    `anew` takes what `training.init` names now, instead of what it named when the run began.
    """
    if config.training.init is None:
        return plan_run(storage, config, dataset)
    weights = None if anew else kept_init(storage, config, dataset)
    if weights is None:
        generator = load(config.training.init, storage)
        weights = to_bytes(generator.network.state_dict())
        check_same_generator(config, generator.spec, plan_run(storage, config, dataset, weights).spec)
        keep_init(storage, config, dataset, weights)
    return plan_run(storage, config, dataset, weights)


def train(storage: Storage, config: Config, dataset: DatasetRef, restart: bool = False) -> Training:
    """Trains, or goes on training, with MLflow following in the background; `restart` begins anew."""
    planned = plan(storage, config, dataset, anew=restart)
    run = planned.run
    mlflow = client(storage)  # a server that does not answer is told before training, not after
    known = None if restart else finished(storage, run, planned.total_steps)
    if known and is_there(mlflow, known.mlflow_run):
        return known
    with only_writer(storage, run):
        if restart:
            supersede_run(mlflow, config, run)
            begin_anew(storage, run)
        describe(storage, run, _description(config, planned))
        from pipeline.training.on_ray import train_on_ray  # Ray takes seconds to import

        sink = Sink(storage, config, run, dataset)
        try:
            trained = train_on_ray(storage, config, planned)
        except BaseException as error:
            sink.abandon("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED")
            raise
        mlflow_run = sink.finish("FINISHED")
    points = read_points(storage, run)
    metrics = points[-1]["metrics"] if points else {}
    training = Training(run, mlflow_run, trained.checkpoint, trained.resumed_from, metrics)
    keep_checkpoint(storage, trained.checkpoint)
    remember(storage, "train", _finished_at(storage, run, planned.total_steps), asdict(training))
    return training


def finished(storage: Storage, run: str, steps: int) -> Training | None:
    """What the run gave when it ended after so many steps, if its checkpoint is still there and whole."""
    result = recall(storage, "train", _finished_at(storage, run, steps))
    if result is None:
        return None
    known = Training(**{**result, "checkpoint": CheckpointRef(**result["checkpoint"]), "reused": True})
    try:
        same = verify_checkpoint(storage, known.run, known.checkpoint.path) == known.checkpoint
    except BadCheckpoint:
        same = False
    return Training(**{**vars(known), "resumed_from": known.checkpoint.images}) if same else None


def _finished_at(storage: Storage, run: str, steps: int) -> dict:
    return {"run": run, "steps": steps, "tracking": sha256(tracking_uri(storage).encode())}


def _description(config: Config, planned: RunPlan) -> dict:
    return {
        "run": planned.run,
        "dataset": asdict(planned.dataset),
        "spec": planned.spec.to_dict(),
        "classes": planned.classes,
        "config": redact_all(config.model_dump(mode="json")),
    }


def candidate(storage: Storage, config: Config, dataset: DatasetRef, training: Training) -> tuple[Generator, bytes]:
    """The averaged generator of a run, and its weights as safetensors."""
    manifest = load_manifest(storage, dataset)
    shown = shown_classes(manifest, config.data)
    spec = config.network_spec(manifest.channels, len(shown))
    return averaged_generator(storage, training.checkpoint, spec, shown)


def averaged_generator(
    storage: Storage, checkpoint: CheckpointRef, spec: NetworkSpec, classes: list[str]
) -> tuple[Generator, bytes]:
    """The averaged generator of a checkpoint, and its weights as safetensors; `classes` are the dataset's."""
    files = read_files(storage, checkpoint)
    weights = files["ema.safetensors"]
    document = canonical_json({"spec": spec.to_dict(), "classes": classes if spec.classes else []})
    return generator_from_files(weights, document, files.get(ENCODER_EMA)), weights


def evaluate(storage: Storage, config: Config, dataset: DatasetRef, generator: Generator) -> Evaluation:
    """Measures a generator against the held-out images. A generator that can not be measured is a finding."""
    settings = config.evaluation
    try:
        try:
            report, features = evaluate_once(
                storage, dataset, generator, images=settings.images, seeds=settings.seeds, only=config.data.only
            )
        except TooFewImages as too_few:
            note(f"not measured: {too_few}")
            return Evaluation(None, None, find_own_problem(generator))
    except BadGenerator as bad:
        return Evaluation(None, None, bad.reason)
    return Evaluation(report, features, find_problem(features))


def release(
    storage: Storage, config: Config, dataset: DatasetRef, training: Training, evaluation: Evaluation
) -> Released:
    """Registers the averaged generator, and has the gate judge it against the champion."""
    settings, model = config.evaluation, config.model_name
    inputs = {
        "model": model, "checkpoint": training.checkpoint.digest, "mlflow_run": training.mlflow_run,
        "evaluation": settings.model_dump(mode="json"), "tracking": sha256(tracking_uri(storage).encode()),
    }  # fmt: skip
    mlflow = client(storage)
    known = recall(storage, "release", inputs)
    if known and (before := standing(mlflow, Release(**known), training.mlflow_run)):
        return Released(before, reused=True)
    generator, weights = candidate(storage, config, dataset, training)
    version = register(
        mlflow,
        model=model,
        run_id=training.mlflow_run,
        spec=generator.spec,
        weights=weights,
        encoder=to_bytes(generator.encoder.state_dict()) if generator.encoder is not None else None,
        lineage={
            "dataset": dataset.digest,
            "config": config.digest(),
            "run": training.run,
            "checkpoint": training.checkpoint.path,
            "images": training.checkpoint.images,
            "classes": list(generator.class_names),
        },
    )
    if evaluation.metrics:
        log_figures(mlflow, training.mlflow_run, training.checkpoint.images, evaluation.metrics)
    document = canonical_json(evaluation.report.to_dict()) if evaluation.report else None

    def judge(champion: int | None) -> tuple[Decision, bytes | None]:
        interval = _against(storage, config, dataset, evaluation, f"{model}@{champion}") if champion else None
        decision = decide(
            champion=champion,
            candidate_version=version,
            interval=interval,
            images_generated=settings.images,
            images_held_out=evaluation.report.held_out if evaluation.report else 0,
            minimum_images=settings.minimum_images,
            problem=evaluation.problem,
            seeds=len(settings.seeds),
            distance=evaluation.metrics.get("frechet"),
        )
        return decision, document

    released = settle(mlflow, model, version, judge)
    remember(storage, "release", inputs, asdict(released))
    return Released(released)


def _against(
    storage: Storage, config: Config, dataset: DatasetRef, evaluation: Evaluation, champion: str
) -> tuple[float, float, float] | None:
    """The interval of the difference in Frechet distance; the champion is measured on the same images and seeds."""
    if evaluation.features is None or evaluation.problem:
        return None
    other = evaluate(storage, config, dataset, load(champion, storage))
    if other.features is None:
        return None
    ours = evaluation.features
    return frechet_difference_interval(ours.held_out, ours.generated, other.features.generated)
