"""The stages as plain functions: what the flow's tasks and the single commands call.

A stage whose inputs are what they were gives what it gave, without starting anything.
"""

from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from flows import services
from flows.evaluation_page import show_candidate
from flows.inits import check_same_generator, keep_init, kept_init
from flows.model_card import add_card, card_of
from ganmodels.saving import to_bytes
from ganmodels.spec import NetworkSpec
from pipeline.config import Config
from pipeline.digest import canonical_json
from pipeline.errors import Stopped, Unavailable, UserError
from pipeline.evaluation.bootstrap import frechet_difference_interval
from pipeline.evaluation.chosen import chosen_features
from pipeline.evaluation.evaluate import Features
from pipeline.evaluation.generated import BadGenerator
from pipeline.evaluation.on_ray import spread_out
from pipeline.evaluation.problems import find_loaded_problem, find_own_problem, find_problem, memorised_share
from pipeline.evaluation.real import TooFewImages
from pipeline.evaluation.remembered import evaluate_once
from pipeline.evaluation.report import EvaluationReport
from pipeline.evaluation.teachable import check_teachable
from pipeline.locks import Held
from pipeline.patience import first_line
from pipeline.progress import note
from pipeline.redact import redact_all
from pipeline.registry.artifact import ArtifactError
from pipeline.registry.gate import Decision, Measured, Rules, decide
from pipeline.registry.generator import Generator, generator_from_files
from pipeline.registry.lookup import load, load_anew
from pipeline.registry.releases import Release, register, settle, standing
from pipeline.registry.runs import is_there, log_figures, supersede_run
from pipeline.registry.server import client, has_answered, tracking_uri
from pipeline.results import recall, remember
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.shards.on_ray import Ingest, shard_images
from pipeline.shards.view import shown_classes
from pipeline.storage import Storage, sha256
from pipeline.training.checkpoint import BadCheckpoint, CheckpointRef, keep_checkpoint, read_files, verify_checkpoint
from pipeline.training.fork import begin_fork, check_no_init, check_same_networks, keep_origin, lineage, origin_of
from pipeline.training.plan import RunPlan, plan_run
from pipeline.training.run import begin_anew, describe, has_begun, only_writer
from pipeline.training.sink import Sink
from pipeline.training.state import ENCODER_EMA
from pipeline.training.telemetry import last_point
from pipeline.trust import gate
from pipeline.trust.report import report_once


@dataclass(frozen=True)
class Training:
    """A finished run: its last checkpoint, its MLflow run, its last figures. `reused`: it was finished before.

    `best` is the checkpoint whose measurement was the lowest, where there was any: that one is released. `warnings`
    are what the run was warned of, by code.
    `forked_from` has `run`, `step` and `digest` of the checkpoint that it began with, if it is a fork.
    """

    run: str
    mlflow_run: str
    checkpoint: CheckpointRef
    resumed_from: int
    metrics: dict[str, float]
    reused: bool = False
    forked_from: dict | None = None
    best: CheckpointRef | None = None
    warnings: dict[str, str] = field(default_factory=dict)

    @property
    def candidate(self) -> CheckpointRef:
        return self.best or self.checkpoint


@dataclass(frozen=True)
class Evaluation:
    """What the gate is told of a candidate. No report: `problem`, or too few held-out images to measure by.

    `memorised` is the share of its images that look like copies, None where that can not be told.
    """

    report: EvaluationReport | None
    features: Features | None
    problem: str | None
    memorised: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        return self.report.metrics if self.report else {}


@dataclass(frozen=True)
class Released:
    """`page` is the path of the page on it in the storage root; None if none was made now."""

    release: Release
    reused: bool = False
    page: str | None = None


def shard(
    storage: Storage, config: Config, *, compact: bool = False, rebuild: bool = False, rehash: bool = False
) -> Ingest:
    ingest = shard_images(storage, config.name, config.data, compact=compact, rebuild=rebuild, rehash=rehash)
    report_once(storage, ingest.dataset)
    return ingest


def admit(storage: Storage, config: Config, dataset: DatasetRef) -> None:
    """Raises UserError for a dataset version too unlike the last that was trained on, see `data.gate`, or one whose
    images the recipe's features can not be learned from.
    """
    check_teachable(config, load_manifest(storage, dataset).classes)
    gate.admit(storage, dataset, config.data.gate)


def plan(storage: Storage, config: Config, dataset: DatasetRef, anew: bool = False, fork: str | None = None) -> RunPlan:
    """The run that a recipe on a dataset is, with what it starts from, if that is named.

    `fork` names a checkpoint, RUN@STEP or RUN. `anew` takes what that or `training.init` names now, instead of what
    it named when the run began.
    """
    if fork:
        return _plan_fork(storage, config, dataset, anew, fork)
    if config.training.init is None:
        return plan_run(storage, config, dataset)
    weights = None if anew else kept_init(storage, config, dataset)
    if weights is None:
        generator = load(config.training.init, storage)
        weights = to_bytes(generator.network.state_dict())
        check_same_generator(config, generator.spec, plan_run(storage, config, dataset, weights).spec)
        keep_init(storage, config, dataset, weights)
    return plan_run(storage, config, dataset, weights)


def _plan_fork(storage: Storage, config: Config, dataset: DatasetRef, anew: bool, named: str) -> RunPlan:
    check_no_init(config)
    origin, begun = origin_of(storage, config, dataset, named, anew)
    planned = plan_run(storage, config, dataset, fork=origin)
    if not begun:
        check_same_networks(storage, origin, planned.spec)
    return planned


def train(
    storage: Storage, config: Config, dataset: DatasetRef, restart: bool = False, fork: str | None = None
) -> Training:
    """Trains, or goes on training, with MLflow following in the background; `restart` begins anew.

    `fork` names the checkpoint of another run to begin with.
    """
    planned = plan(storage, config, dataset, restart, fork)
    run = planned.run
    mlflow = _registry(storage, run, restart)
    known = None if restart else finished(storage, run, planned.total_steps)
    if known and (mlflow is None or is_there(mlflow, known.mlflow_run)):
        return known
    with only_writer(storage, run) as held:
        if restart:
            supersede_run(mlflow, config, run)
            begin_anew(storage, run)
        if fork and planned.fork:
            keep_origin(storage, config, dataset, fork, planned.fork)
            begin_fork(storage, run, planned.fork, dataset, config.training.batch)
        describe(storage, run, _description(config, planned))
        from pipeline.training.train import train_run  # torch takes seconds to import

        origin = planned.fork
        sink = Sink(storage, config, run, dataset, f"{origin.run}@{origin.step}" if origin else None)
        try:
            trained = train_run(storage, config, planned, held)
        except BaseException as error:
            if _is_ours(held):
                sink.abandon("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED")
            else:
                sink.let_go()
            raise
        mlflow_run = sink.finish("FINISHED")
    last = last_point(storage, run)
    training = Training(
        run, mlflow_run, trained.checkpoint, trained.resumed_from, last["metrics"] if last else {},
        forked_from=lineage(origin) if origin else None, best=trained.best, warnings=trained.warnings,
    )  # fmt: skip
    for checkpoint in {trained.checkpoint, trained.best}:
        keep_checkpoint(storage, checkpoint.path)
    for steps in {planned.total_steps, trained.checkpoint.step}:  # on a plateau it is done with fewer
        remember(storage, "train", _finished_at(storage, run, steps), asdict(training))
    return training


def _is_ours(held: Held) -> bool:
    """Whether the run is still ours for sure: what another goes on with has not ended."""
    try:
        held.check()
    except Unavailable:
        return False
    return True


def _registry(storage: Storage, run: str, restart: bool) -> Any:
    """The client of a server that answers. One that does not is told before training, not after: it may be a mistake.

    None for one that is none, since it has answered in this command, or the run has begun: training can do without it.
    """
    try:
        return client(storage)
    except Unavailable as away:
        if restart:  # to try again would go on with what was to begin anew
            raise UserError(str(away)) from None
        if not (has_answered(storage) or has_begun(storage, run)):
            raise
        note(f"{away}; run {run} is trained without it meanwhile")
        return None


def finished(storage: Storage, run: str, steps: int) -> Training | None:
    """What the run gave when it ended after so many steps, if its checkpoint is still there and whole."""
    result = recall(storage, "train", _finished_at(storage, run, steps))
    if result is None:
        return None
    refs = {key: CheckpointRef(**result[key]) for key in ("checkpoint", "best") if result.get(key)}
    known = Training(**{**result, **refs, "reused": True})
    try:
        same = all(verify_checkpoint(storage, known.run, ref.path) == ref for ref in refs.values())
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
        **({"forked_from": lineage(planned.fork)} if planned.fork else {}),
    }


def candidate(storage: Storage, config: Config, dataset: DatasetRef, training: Training) -> tuple[Generator, bytes]:
    """The averaged generator of a run at its best, and its weights as safetensors."""
    manifest = load_manifest(storage, dataset)
    shown = shown_classes(manifest, config.data)
    spec = config.network_spec(manifest.channels, len(shown))
    return averaged_generator(storage, training.candidate, spec, shown)


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
    try:
        try:
            report, features = _measure(storage, config, dataset, generator)
        except TooFewImages as too_few:
            note(f"not measured: {too_few}")
            return Evaluation(None, None, find_own_problem(generator))
    except BadGenerator as bad:
        return Evaluation(None, None, bad.reason)
    memorised = memorised_share(features)
    return Evaluation(report, features, find_problem(features, memorised), memorised)


def _measure(
    storage: Storage, config: Config, dataset: DatasetRef, generator: Generator
) -> tuple[EvaluationReport, Features]:
    settings = config.evaluation
    with spread_out(config.cluster, _ray_trouble) as workers:
        return evaluate_once(
            storage, dataset, generator, images=settings.images, seeds=settings.seeds, only=config.data.only,
            extractor=chosen_features(storage, settings, dataset, config.data.only), extra=settings.extra,
            workers=workers,
        )  # fmt: skip


def _ray_trouble() -> str | None:
    """Why not to join Ray, which itself would try for minutes; an evaluation can do without it."""
    try:
        services.ray()
    except services.Amiss as amiss:
        return amiss.detail
    return None


def release(
    storage: Storage,
    config: Config,
    dataset: DatasetRef,
    training: Training,
    evaluation: Evaluation,
    by: str | None = None,
) -> Released:
    """Registers the averaged generator, and has the gate judge it against the champion.

    `by` is who asks for it, for the record; this process by default.
    """
    settings, model = config.evaluation, config.model_name
    rules = {key: value for key, value in config.release.counted().items() if key != "model"}
    inputs = {
        "model": model, "checkpoint": training.candidate.digest, "mlflow_run": training.mlflow_run,
        "evaluation": settings.counted(), "tracking": sha256(tracking_uri(storage).encode()),
        **({"rules": rules} if rules else {}),
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
            "checkpoint": training.candidate.path,
            "images": training.candidate.images,
            "classes": list(generator.class_names),
            **({"licence": config.release.licence} if config.release.licence else {}),
        },
    )
    if evaluation.metrics:
        log_figures(mlflow, training.mlflow_run, training.candidate.images, evaluation.metrics)
    document = canonical_json(evaluation.report.to_dict()) if evaluation.report else None

    @cache  # the artifact is the same whoever is champion
    def smoke() -> str | None:
        return _smoke(storage, f"{model}@{version}", generator)

    @cache  # for the gate and for the page
    def incumbent(champion: int | None) -> tuple[EvaluationReport, Features] | None:
        if champion is None or evaluation.problem:
            return None  # there is none, or it makes no difference
        return _of_champion(storage, config, dataset, f"{model}@{champion}")

    judged_against: list[int | None] = []

    def judge(champion: int | None) -> tuple[Decision, bytes | None]:
        judged_against.append(champion)
        decision = decide(
            champion=champion,
            candidate_version=version,
            interval=_difference(evaluation, incumbent(champion)),
            measured=Measured(
                images_generated=settings.images,
                images_held_out=evaluation.report.held_out if evaluation.report else 0,
                seeds=len(settings.seeds),
                metrics=evaluation.metrics,
                memorised=evaluation.memorised,
                problem=evaluation.problem,
                smoke=smoke(),
            ),
            rules=Rules(settings.minimum_images, config.release.minimum_coverage, config.release.limits),
        )
        return decision, document

    page, released = None, settle(mlflow, model, version, judge, by=by)
    add_card(
        mlflow, released, lambda: card_of(storage, config, dataset, training, evaluation, generator, released)
    )  # fmt: skip
    if evaluation.report and evaluation.features:
        last = judged_against[-1] if judged_against else None
        other = incumbent(last)
        page = show_candidate(
            storage, mlflow, model, version, training.run, (evaluation.report, evaluation.features), generator,
            (f"{model}@{last}", other[0]) if other else None,
        )  # fmt: skip
    if released.promoted or smoke() is None:  # an artifact that can not be read now may be later
        remember(storage, "release", inputs, asdict(released))
    return Released(released, page=page)


def _smoke(storage: Storage, reference: str, candidate: Generator) -> str | None:
    """What is wrong with a registered version as anybody gets it from the registry; None if nothing is."""
    try:
        return find_loaded_problem(load_anew(reference, storage), candidate)
    except (ArtifactError, ValueError) as error:  # its files; or a spec that is not the weights'
        return f"it does not load: {error}"


def _of_champion(
    storage: Storage, config: Config, dataset: DatasetRef, champion: str
) -> tuple[EvaluationReport, Features] | None:
    """Measured on the same images and seeds; None where it can not be, for which nobody can blame the candidate."""
    try:
        return _measure(storage, config, dataset, load(champion, storage))
    except Unavailable:
        raise
    except (BadGenerator, ArtifactError, UserError) as error:
        note(f"{champion} can not be measured: {first_line(error)}")
        return None


def _difference(
    evaluation: Evaluation, champion: tuple[EvaluationReport, Features] | None
) -> tuple[float, float, float] | None:
    """The interval of the difference in Frechet distance; None where they are not to be compared."""
    if not (champion and evaluation.report and evaluation.features):
        return None
    report, theirs = champion
    if evaluation.report.name_of("frechet") != report.name_of("frechet"):
        return None  # of other features, images or seeds
    ours = evaluation.features
    return frechet_difference_interval(ours.held_out, ours.generated, theirs.generated)
