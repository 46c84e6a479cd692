"""What `ganline deploy` tells a Prefect server: a work pool and a deployment."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker
from pydantic import TypeAdapter, ValidationError

from flows import services
from flows.automations import HEARTBEAT_SECONDS, install_automations, install_watch
from flows.housekeeping import keep_house
from flows.release import release_generator
from pipeline.config import OWN_CLASSIFIER, PACKAGED_FEATURES, Config
from pipeline.config_values import Name
from pipeline.errors import UserError
from pipeline.ingest.source import is_built_in
from pipeline.location import absolute
from pipeline.patience import first_line
from pipeline.redact import redact_all

_STRATEGIES = {"wait": ConcurrencyLimitStrategy.ENQUEUE, "refuse": ConcurrencyLimitStrategy.CANCEL_NEW}


@dataclass(frozen=True)
class Deployment:
    """`name` is flow and model, as Prefect's own commands take it."""

    name: str
    id: str


@dataclass(frozen=True)
class _Job:
    """A flow, and what its deployment is told."""

    flow: Flow
    name: str
    parameters: dict[str, Any]
    schema: dict[str, Any]
    tags: list[str]
    description: str


def make_deployment(
    config: Config, storage: str, pool: str, cron: str | None, timezone: str, busy: Literal["wait", "refuse"]
) -> Deployment:
    """Makes or replaces the deployment `release/MODEL`; raises UserError for what can not be one."""
    job = _Job(
        flow=release_generator,
        name=config.model_name,
        parameters={"recipe": portable(config), "storage_uri": absolute(storage)},
        schema=_parameters(),
        tags=[f"model:{config.model_name}"],
        description=f"Trains {config.name}, and releases {config.model_name} if it is better than the champion.",
    )
    return _make(job, pool, cron, timezone, busy)


def make_housekeeping(
    name: str, storage: str, days: float, unreleased: bool, pool: str, cron: str | None, timezone: str
) -> Deployment:
    """Makes or replaces the deployment `housekeeping/NAME`; raises UserError for what can not be one."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UserError(f"{name!r} is no name of a deployment: letters, digits, and . _ - between them") from None
    job = _Job(
        flow=keep_house,
        name=name,
        parameters={"storage_uri": absolute(storage), "days": days, "unreleased": unreleased},
        schema=parameter_schema(keep_house.fn).model_dump(),
        tags=[],
        description=keep_house.description or "",
    )
    return _make(job, pool, cron, timezone, "refuse")


def _make(job: _Job, pool: str, cron: str | None, timezone: str, busy: Literal["wait", "refuse"]) -> Deployment:
    if not os.environ.get("PREFECT_API_URL"):
        raise UserError("set PREFECT_API_URL to a Prefect server; `prefect server start` starts one")
    try:
        services.prefect()
    except services.Amiss as amiss:
        raise UserError(f"{amiss.detail}; {amiss.remedy}") from None
    webhook = os.environ.get("GANLINE_WEBHOOK")
    if webhook and not webhook.startswith(("http://", "https://")):
        raise UserError("GANLINE_WEBHOOK is no address of a webhook: it begins with http:// or https://")
    if redact_all(job.parameters) != job.parameters:
        raise UserError(
            "Prefect would store the credentials in this recipe or in --storage;"
            " give them to the workers in their environment, as AWS_ACCESS_KEY_ID and such"
        )
    schedules = [DeploymentScheduleCreate(schedule=_schedule(cron, timezone), active=True)] if cron else []
    with get_client(sync_client=True) as client:
        _ensure_pool(client, pool)
        made = client.create_deployment(
            flow_id=client.create_flow(job.flow),
            name=job.name,
            entrypoint=f"{job.flow.fn.__module__}.{job.flow.fn.__name__}",  # Ganline is installed where a worker is
            work_pool_name=pool,
            parameters=job.parameters,
            parameter_openapi_schema=job.schema,
            enforce_parameter_schema=True,
            schedules=schedules,
            concurrency_limit=1,
            concurrency_options=ConcurrencyOptions(collision_strategy=_STRATEGIES[busy]),
            tags=["ganline", *job.tags],
            job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}},
            description=job.description,
        )
        if job.flow is release_generator:
            install_automations(client, made, job.name, webhook)
        else:
            install_watch(client, made, f"{job.flow.name}/{job.name}", webhook)
    return Deployment(f"{job.flow.name}/{job.name}", str(made))


def _ensure_pool(client: SyncPrefectClient, pool: str) -> None:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
        except (PrefectHTTPStatusError, ValidationError) as error:
            raise UserError(f"Prefect takes no work pool of the name {pool}: {first_line(error)}") from None


def portable(config: Config) -> dict[str, Any]:
    """As a worker reads it, wherever it stands; raises UserError for what means something here alone."""
    values = config.model_dump(mode="json", exclude_unset=True)
    values.pop("storage", None)  # a parameter of its own
    data = values.setdefault("data", {})
    if not is_built_in(config.data.source):
        data["source"] = absolute(config.data.source)
    if config.evaluation.features not in (PACKAGED_FEATURES, OWN_CLASSIFIER):
        values["evaluation"]["features"] = absolute(config.evaluation.features)
    labels = config.data.labels
    if labels.endswith(".json") and "://" not in labels and not Path(labels).is_absolute():
        raise UserError(f"data.labels {labels} means another file where a worker stands; give its whole path, or a URI")
    return values


def _schedule(cron: str, timezone: str) -> CronSchedule:
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f'--cron "{cron}" in {timezone}: {said}; write it as "minute hour day month weekday"') from None


def _parameters() -> dict[str, Any]:
    """The schema that Prefect's pages make a form of, and check what is filled in by."""
    recipe = Config.model_json_schema(ref_template="#/definitions/{model}")
    definitions = recipe.pop("$defs")
    schema = parameter_schema(release_generator.fn).model_dump()
    schema["properties"]["recipe"] = {**recipe, "position": 0, "title": "recipe"}
    return {**schema, "definitions": definitions}
