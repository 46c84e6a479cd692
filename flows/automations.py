"""What a Prefect server does by itself about a deployment: a crashed run goes on, and a webhook hears how runs end."""

import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import Cancelled
from prefect.types import SecretDict

from flows.stages import Released
from pipeline.errors import RunFailed

MOST_CRASHES = 4  # in a row, each within
_SOON = timedelta(hours=1)  # after the run had begun
HEARTBEAT_SECONDS = 30  # Prefect's least
_SILENCE = timedelta(seconds=3 * HEARTBEAT_SECONDS + 10)
_PAUSE = timedelta(seconds=20)  # before a crashed run is gone on with
_LONGEST = timedelta(days=60)  # that a run may take and yet be seen to crash
_RUN = "prefect.flow-run."
_GOES_ON, _SILENT = "a crashed run goes on", "a silent run has crashed"
_FAILURE, _PROMOTION, _REFUSAL = "tell of a failure", "tell of a promotion", "tell of a refusal"
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
    "instead_of": {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"},
}  # fmt: skip
Automated = tuple[EventTrigger, ChangeFlowRunState | RunDeployment | CallWebhook]


def install_automations(client: SyncPrefectClient, deployment: UUID, model: str, webhook: str | None) -> None:
    """Replaces those of an earlier deployment of the model; without a webhook nobody is told. Whoever may read the
    server's blocks may read the webhook's address, and nobody else."""
    wanted = {_GOES_ON: _crashed_goes_on(deployment), _SILENT: _silent_has_crashed(deployment)}
    if webhook:
        block = _block(model, webhook)
        wanted |= {_FAILURE: _failed(deployment, model, block), **_decided(model, block)}
    _replace(client, model, wanted)


def install_watch(client: SyncPrefectClient, deployment: UUID, name: str, webhook: str | None) -> None:
    """Likewise for another flow than that of releases: its next run does what a crashed one has left."""
    wanted = {_SILENT: _silent_has_crashed(deployment)}
    if webhook:
        wanted[_FAILURE] = _failed(deployment, name, _block(name, webhook))
    _replace(client, name, wanted)


def _replace(client: SyncPrefectClient, whose: str, wanted: Mapping[str, Automated]) -> None:
    for what in (_GOES_ON, _SILENT, _FAILURE, _PROMOTION, _REFUSAL):
        name = f"ganline {whose}: {what}"
        for old in client.read_automations_by_name(name):
            client.delete_automation(old.id)
        if what in wanted:
            trigger, action = wanted[what]
            client.create_automation(AutomationCore(name=name, trigger=trigger, actions=[action]))


def _block(whose: str, webhook: str) -> UUID:
    """Where the server keeps the address."""
    headers = SecretDict({"Content-Type": "application/json"})
    # A block's name may have small letters, digits and dashes alone; no two have the same.
    name = f"ganline-{re.sub('[^a-z0-9]+', '-', whose.lower())}-{hashlib.sha256(whose.encode()).hexdigest()[:8]}"
    return Webhook(url=webhook, headers=headers).save(name, overwrite=True)  # type: ignore[return-value]


def check_crashed(instead_of: str | None) -> None:
    """Before a flow run that the server has started in place of a crashed one, by that one's id. Raises Abort, the run
    being `Cancelled` then, where that one was cancelled and killed before it had ended; raises RunFailed where that one
    and those before it have all crashed soon after they began."""
    crashes = 0
    with get_client(sync_client=True) as client:
        if instead_of and any(state.is_cancelling() for state in client.read_flow_run_states(UUID(instead_of))):
            said = "the run that this would go on with was cancelled"
            client.set_flow_run_state(UUID(runtime.flow_run.id), Cancelled(message=said), force=True)
            raise Abort(said)
        while instead_of and crashes < MOST_CRASHES:
            try:
                crashed = client.read_flow_run(UUID(instead_of))
            except ObjectNotFound:  # somebody has tidied up
                return
            if crashed.total_run_time > _SOON:
                return
            crashes, instead_of = crashes + 1, crashed.parameters.get("instead_of")
    if crashes == MOST_CRASHES:
        raise RunFailed(f"{crashes} runs in a row have crashed; the next one goes on once the cause is mended")


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


def _once_ended(deployment: UUID) -> EventTrigger:
    # After it was given to a worker, which is once: of a process that was killed both its supervisor and worker tell.
    return _trigger(deployment, {"Failed", "TimedOut", "Crashed"}, after={"Pending"}, within=_LONGEST)


def _silent_has_crashed(deployment: UUID) -> Automated:
    # A machine that is gone with worker and flow run says nothing, and the run would be Running for ever.
    news = {"heartbeat", "Completed", "Failed", "TimedOut", "Cancelled", "Crashed"}
    silent = _trigger(deployment, news, after={"heartbeat"}, within=_SILENCE, posture=Posture.Proactive)
    said = "it has said nothing for too long"
    return silent, ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=said, force=True)


def _failed(deployment: UUID, whose: str, block: UUID) -> Automated:
    return _once_ended(deployment), _tell(block, whose, "failure", _OF_A_RUN)


def _decided(model: str, block: UUID) -> dict[str, Automated]:
    def when(event: str) -> EventTrigger:
        return EventTrigger(expect={event}, match=ResourceSpecification({"prefect.resource.id": _resource(model)}))

    return {
        _PROMOTION: (when(_PROMOTED), _tell(block, model, "promotion", _OF_A_RELEASE)),
        _REFUSAL: (when(_REFUSED), _tell(block, model, "refusal", _OF_A_RELEASE)),
    }


def _tell(block: UUID, model: str, kind: str, fields: dict[str, str]) -> CallWebhook:
    """A template of JSON, whatever the texts in it hold."""
    said = [f'"{key}": {{{{ ({expression.replace("MODEL", model)}) | tojson }}}}' for key, expression in fields.items()]
    payload = f'{{"model": "{model}", "kind": "{kind}", {", ".join(said)}}}'
    return CallWebhook(block_document_id=block, payload=payload)


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


def _resource(model: str) -> str:
    return f"ganline.model.{model}"
