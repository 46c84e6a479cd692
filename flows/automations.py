"""What a Prefect server does by itself about a deployment: a crashed run goes on, and a webhook hears how runs end."""

import hashlib
import re
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterEndTime,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import emit_event
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.types import SecretDict

from flows.stages import Released
from pipeline.errors import RunFailed

MOST_CRASHES = 4  # in a row
HEARTBEAT_SECONDS = 30  # Prefect's least
_SILENCE = timedelta(seconds=3 * HEARTBEAT_SECONDS + 10)
_PAUSE = timedelta(seconds=20)  # before a crashed run is gone on with
_LONGEST = timedelta(days=60)  # that a run may take and yet be seen to crash
_RUN = "prefect.flow-run."
_GOES_ON, _SILENT = "a crashed run goes on", "a silent run has crashed"
_TOLD = _FAILURE, _PROMOTION, _REFUSAL = "tell of a failure", "tell of a promotion", "tell of a refusal"
_PROMOTED, _REFUSED = "ganline.release.promoted", "ganline.release.refused"


def _filled(parameter: str) -> dict[str, Any]:
    """By the server, when it starts the run."""
    template = f"{{{{ flow_run.parameters.{parameter} | default(none) | tojson }}}}"
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}


# Of each kind of event, what a webhook is told, in expressions that the server's templates know.
_OF_A_RUN = {
    "text": 'flow_run.name ~ " of MODEL: " ~ flow_run.state.name ~ ": " ~ flow_run.state.message',
    "flow_run": "flow_run.id | string",
}
_OF_A_RELEASE = {
    "text": '"MODEL version " ~ event.payload.version ~ ": " ~ event.payload.reason',
    "version": "event.payload.version",
}
# The crashed run's own, but for a restart: it had begun anew already.
_PARAMETERS = {
    "recipe": _filled("recipe"), "storage_uri": _filled("storage_uri"), "fork": _filled("fork"), "restart": False,
}  # fmt: skip
Automated = tuple[EventTrigger, ChangeFlowRunState | RunDeployment | CallWebhook]


def install_automations(client: SyncPrefectClient, deployment: UUID, model: str, webhook: str | None) -> None:
    """Replaces those of an earlier deployment of the model; without a webhook nobody is told. Whoever may read the
    server's blocks may read the webhook's address, and nobody else."""
    wanted = {_GOES_ON: _crashed_goes_on(deployment), _SILENT: _silent_has_crashed(deployment)}
    if webhook:
        headers = SecretDict({"Content-Type": "application/json"})
        block = Webhook(url=webhook, headers=headers).save(_block_name(model), overwrite=True)
        wanted |= _told(deployment, model, block)  # type: ignore[arg-type]
    for what in (_GOES_ON, _SILENT, *_TOLD):
        name = f"ganline {model}: {what}"
        for old in client.read_automations_by_name(name):
            client.delete_automation(old.id)
        if what in wanted:
            trigger, action = wanted[what]
            client.create_automation(AutomationCore(name=name, trigger=trigger, actions=[action]))


def check_crashes() -> None:
    """Raises RunFailed where a run was started for a crashed one, and so were those before it, all in vain."""
    if not runtime.deployment.id:
        return
    deployment = DeploymentFilter(id=DeploymentFilterId(any_=[UUID(runtime.deployment.id)]))
    ended = FlowRunFilter(end_time=FlowRunFilterEndTime(is_null_=False))
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(runtime.flow_run.id))
        if run.created_by is None or run.created_by.type != "AUTOMATION":
            return
        before = client.read_flow_runs(
            deployment_filter=deployment, flow_run_filter=ended, sort=FlowRunSort.END_TIME_DESC, limit=MOST_CRASHES
        )
    if len(before) == MOST_CRASHES and all(each.state and each.state.is_crashed() for each in before):
        raise RunFailed(f"{MOST_CRASHES} runs in a row have crashed; the next one goes on once the cause is mended")


def tell_of(released: Released) -> None:
    """An event on Prefect's server for a decision that this run has taken."""
    release = released.release
    if not released.reused:
        emit_event(
            _PROMOTED if release.promoted else _REFUSED,
            resource={"prefect.resource.id": _resource(release.model), "prefect.resource.name": release.model},
            payload={"version": release.version, "reason": release.reason},
        )


def _crashed_goes_on(deployment: UUID) -> Automated:
    # A new run, for Prefect may tell twice of a process that was killed, late enough to hit its run when that goes on.
    # After it has run: what crashes before that would crash at once again, without end.
    again = RunDeployment(deployment_id=deployment, parameters=_PARAMETERS, schedule_after=_PAUSE)
    return _trigger(deployment, {"Crashed"}, after={"Running"}, within=_LONGEST), again


def _silent_has_crashed(deployment: UUID) -> Automated:
    # A machine that is gone with worker and flow run says nothing, and the run would be Running for ever.
    news = {"heartbeat", "Completed", "Failed", "TimedOut", "Cancelled", "Crashed"}
    silent = _trigger(deployment, news, after={"heartbeat"}, within=_SILENCE, posture=Posture.Proactive)
    said = "it has said nothing for too long"
    return silent, ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=said, force=True)


def _told(deployment: UUID, model: str, block: UUID) -> dict[str, Automated]:
    def tell(kind: str, fields: dict[str, str]) -> CallWebhook:
        return CallWebhook(block_document_id=block, payload=_payload(model, kind, fields))

    def decided(event: str) -> EventTrigger:
        return EventTrigger(expect={event}, match=ResourceSpecification({"prefect.resource.id": _resource(model)}))

    return {
        _FAILURE: (_trigger(deployment, {"Failed", "TimedOut", "Crashed"}), tell("failure", _OF_A_RUN)),
        _PROMOTION: (decided(_PROMOTED), tell("promotion", _OF_A_RELEASE)),
        _REFUSAL: (decided(_REFUSED), tell("refusal", _OF_A_RELEASE)),
    }


def _trigger(
    deployment: UUID, expect: set[str], *, after: set[str] | None = None, within: timedelta = timedelta(0),
    posture: Posture = Posture.Reactive,
) -> EventTrigger:  # fmt: skip
    """By the names of states, for each run of the deployment by itself."""
    return EventTrigger(
        expect={_RUN + name for name in expect},
        after={_RUN + name for name in after or ()},
        match=ResourceSpecification({"prefect.resource.id": f"{_RUN}*"}),
        match_related=ResourceSpecification({"prefect.resource.id": f"prefect.deployment.{deployment}"}),
        for_each={"prefect.resource.id"},
        within=within,
        posture=posture,
    )


def _payload(model: str, kind: str, fields: dict[str, str]) -> str:
    """A template of JSON, whatever the texts in it hold."""
    said = [f'"{key}": {{{{ ({expression.replace("MODEL", model)}) | tojson }}}}' for key, expression in fields.items()]
    return f'{{"model": "{model}", "kind": "{kind}", {", ".join(said)}}}'


def _resource(model: str) -> str:
    return f"ganline.model.{model}"


def _block_name(model: str) -> str:
    """A block's may have small letters, digits and dashes alone; two models never share one."""
    return f"ganline-{re.sub('[^a-z0-9]+', '-', model.lower())}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"
