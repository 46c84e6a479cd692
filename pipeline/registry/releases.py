"""Model versions: a generator put in the registry, what was decided about it, and which one is champion."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ganmodels.spec import NetworkSpec
from pipeline.digest import canonical_json, digest
from pipeline.errors import Unavailable, UserError
from pipeline.registry.gate import Decision
from pipeline.registry.lookup import check_released, registered, resolve
from pipeline.registry.promotion_lock import Held, promotion_lock
from pipeline.registry.reference import CHAMPION, PREVIOUS, check_model_name
from pipeline.registry.runs import log_file
from pipeline.storage import sha256

_LONGEST_TAG = 5000  # MLflow itself takes more, some backends do not
_LONGEST_REASON = 500

# On the registered model while a rollback is on its way: the version that it goes to.
_ROLLING_BACK = "ganline.rolling_back"
# On a version that a rollback took `champion` from.
_ROLLED_BACK = "ganline.rolled_back"


@dataclass(frozen=True)
class Release:
    """A model version and what was decided about it; `reason` is one line."""

    model: str
    version: int
    alias: str | None
    run_id: str
    promoted: bool
    reason: str


def register(
    client: MlflowClient,
    *,
    model: str,
    run_id: str,
    spec: NetworkSpec,
    weights: bytes,
    lineage: dict[str, Any],
    encoder: bytes | None = None,
) -> int:
    """The number of the version that holds these weights, made if this run has none yet.

    `weights` is a safetensors file, and so is any `encoder`. `lineage` has `classes` (their names, in order), and
    `dataset`, `config` (digests), `run`, `checkpoint` (names) and `images`. The version has no alias, and is a
    model of MLflow's too: `mlflow models serve` serves it.
    """
    check_model_name(model)
    classes = list(lineage.get("classes") or [])
    network = digest({"spec": spec.to_dict(), "classes": classes})
    files = {"ganline.weights.sha256": sha256(weights)}
    if encoder is not None:
        files["ganline.encoder.sha256"] = sha256(encoder)
    for version in client.search_model_versions(f"name = '{model}' and run_id = '{run_id}'"):
        same = (files | {"ganline.network": network}).items() <= version.tags.items()
        if same and version.status == "READY":
            return int(version.version)

    from pipeline.registry.packaging import FOLDER, log_generator  # mlflow.pyfunc takes a second to import

    others = {key: value for key, value in lineage.items() if key != "classes"}
    document = canonical_json({"spec": spec.to_dict(), "classes": classes, "lineage": others})
    logged = log_generator(client, run_id, weights, document, encoder, spec.classes, int(lineage["images"]))
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Files first, then the version with all its tags in one call: a version that exists is whole.
    created = client.create_model_version(
        model,
        source=logged.artifact_location,
        run_id=run_id,
        model_id=logged.model_id,
        tags={
            **files,
            "ganline.spec.sha256": sha256(document),
            "ganline.folder": FOLDER,
            "ganline.network": network,
            **{f"ganline.{key}": str(lineage[key]) for key in ("dataset", "config", "run", "checkpoint")},
        },
    )
    return int(created.version)


def champion_version(client: MlflowClient, model: str) -> int | None:
    """The version under `champion`; None if there is none, or no such model yet."""
    try:
        return _under(client.get_registered_model(model), CHAMPION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def settle(
    client: MlflowClient,
    model: str,
    version: int,
    judge: Callable[[int | None], tuple[Decision, bytes | None]],
    attempts: int = 3,
) -> Release:
    """Has `version` judged against the champion, writes the decision on it, and does what it says.

    `judge(champion)` gives the decision and the evaluation report. It may take its time: no lock is held
    meanwhile, and if the champion has moved when it is done, it is called again with the new one. It is not
    called for a version that is champion already. Raises UserError as `promote` does, and if the champion
    moves under each of the `attempts`.
    """
    for _ in range(attempts):
        chosen, champion = _released(client, model, version), champion_version(client, model)
        if champion == version and (old := _promoted(chosen)):
            return _release(chosen, CHAMPION, old)
        if _ROLLED_BACK in chosen.tags:  # a person's word against it stands until a person's word for it
            reason = f"it was rolled back {chosen.tags[_ROLLED_BACK]}; `ganline promote {model} --version {version}`"
            decision = Decision(False, reason, "rolled_back", {}, champion)
            record_decision(client, model, version, decision)
            return _release(chosen, None, decision)
        decision, report = judge(champion)
        evidence = log_evaluation(client, chosen, report) if report else {}  # may take longer than a lock lasts
        if not decision.promoted:
            record_decision(client, model, version, decision, evidence)
            return _release(chosen, None, decision)
        with promotion_lock(client, model) as lock:
            if champion_version(client, model) == champion:
                record_decision(client, model, version, decision, evidence)
                _make_champion(client, model, version, lock)
                return _release(chosen, CHAMPION, decision)
    raise Unavailable(
        f"the champion of {model} moved {attempts} times while version {version} was being judged;"
        " see who else releases it, then do it again"
    )


def standing(client: MlflowClient, before: Release, run_id: str) -> Release | None:
    """A decision of an earlier time with the alias as it is now; None where it has to be taken again.

    That is so if the version is gone or another run's, or was refused against one that is champion no more.
    """
    try:
        version = resolve(client, before.model, before.version)
    except UserError:
        return None
    champion = champion_version(client, before.model)
    if version.run_id != run_id:
        return None
    if not before.promoted:
        decision = _decision(version)
        return before if decision and decision.against == champion else None
    if champion == before.version:
        return before
    return replace(before, alias=None, reason=f"{before.reason}; since then version {champion} is champion")


def log_evaluation(client: MlflowClient, chosen: ModelVersion, report: bytes) -> dict[str, str]:
    """Stores an evaluation report (JSON) among the artifacts of the version's run; gives the tags that name it.

    They are `ganline.evaluation`, its path, and `ganline.evaluation.sha256`.
    """
    sha = sha256(report)
    # One folder for each report: nothing that a tag points to is ever written over.
    folder = digest([chosen.tags["ganline.weights.sha256"], chosen.tags["ganline.spec.sha256"], sha])[:12]
    path = f"release/{folder}/evaluation.json"
    log_file(client, chosen.run_id or "", report, path)
    return {"ganline.evaluation": path, "ganline.evaluation.sha256": sha}


def record_decision(
    client: MlflowClient, model: str, version: int, decision: Decision, evidence: dict[str, str] | None = None
) -> None:
    """Writes the decision on the version, and with it `evidence`, the tags of what it was made on. Moves no alias.

    Tags: `ganline.decision` (canonical JSON), `ganline.promoted`, `ganline.reason`.
    """
    tags = dict(evidence or {})
    tags["ganline.promoted"] = str(decision.promoted).lower()
    tags["ganline.reason"] = decision.reason[:_LONGEST_REASON]
    tags["ganline.decision"] = _as_tag(decision)  # last: what else is there belongs to it
    for key, value in tags.items():
        client.set_model_version_tag(model, str(version), key, value)


def promote(client: MlflowClient, model: str, version: int, reason: str | None = None) -> Release:
    """Moves `champion` to this version and `previous` to the one that had it; writes the decision.

    Judges nothing. Doing it again changes nothing. Raises UserError for an unknown model or version, one
    that was not released by Ganline, or a model that others are promoting all the while.
    """

    def decision(old: int | None, _: ModelVersion) -> Decision:
        said = "there was no champion" if old is None else f"promoted over version {old}"
        return Decision(True, " ".join((reason or said).split()), "unconditional", {}, old)

    return _promote(client, model, version, decision)


def promote_version(client: MlflowClient, model: str, version: int) -> Release:
    """What a person asked for, whatever the gate said: like `promote`, and the decision says so."""

    def decision(old: int | None, chosen: ModelVersion) -> Decision:
        reason = "promoted by hand" if old is None else f"promoted by hand over version {old}"
        before = _decision(chosen)
        if before is not None and not before.promoted:
            reason += f"; before that: {before.reason}"
        return Decision(True, reason, "by_hand", {} if before is None else before.figures, old)

    return _promote(client, model, version, decision)


def rollback(client: MlflowClient, model: str) -> Release:
    """`champion` and `previous` change places, so doing it again is its opposite.

    One that was cut off half-way is completed by the next. Raises UserError if there is no previous version.
    """
    registered(client, model)  # no lock for a model that does not exist
    with promotion_lock(client, model) as lock:
        there = registered(client, model)
        champion, previous = _under(there, CHAMPION), _under(there, PREVIOUS)
        begun = there.tags.get(_ROLLING_BACK)
        target = previous if begun is None else int(begun)
        if target is None or (begun is None and target == champion):
            raise UserError(
                f"model {model} has no previous champion to go back to;"
                f" choose a version: ganline promote {model} --version V"
            )
        chosen = _released(client, model, target)
        if champion != target:
            client.set_registered_model_tag(model, _ROLLING_BACK, str(target))
            if champion is not None:
                client.set_registered_model_alias(model, PREVIOUS, str(champion))
                client.set_model_version_tag(model, str(champion), _ROLLED_BACK, f"to version {target}")
            lock.check()
            client.set_registered_model_alias(model, CHAMPION, str(target))
        if _ROLLED_BACK in chosen.tags:
            client.delete_model_version_tag(model, str(target), _ROLLED_BACK)
        with suppress(MlflowException):  # there was nothing to do
            client.delete_registered_model_tag(model, _ROLLING_BACK)
    reason = "rolled back" if champion in (None, target) else f"rolled back from version {champion}"
    return Release(model, target, CHAMPION, chosen.run_id or "", True, reason)


def _promote(
    client: MlflowClient, model: str, version: int, decide: Callable[[int | None, ModelVersion], Decision]
) -> Release:
    _released(client, model, version)  # no lock for a model that does not exist
    with promotion_lock(client, model) as lock:
        chosen, old = _released(client, model, version), champion_version(client, model)
        if _ROLLED_BACK in chosen.tags:
            client.delete_model_version_tag(model, str(version), _ROLLED_BACK)
        if old == version and (decision := _promoted(chosen)):
            return _release(chosen, CHAMPION, decision)
        decision = decide(old, chosen)
        record_decision(client, model, version, decision)
        _make_champion(client, model, version, lock)
    return _release(chosen, CHAMPION, decision)


def _make_champion(client: MlflowClient, model: str, version: int, lock: Held) -> None:
    there = client.get_registered_model(model)
    old = _under(there, CHAMPION)
    lock.check()
    if old not in (None, version):
        client.set_registered_model_alias(model, PREVIOUS, str(old))  # first: no moment loses the old one
    client.set_registered_model_alias(model, CHAMPION, str(version))
    if _ROLLING_BACK in there.tags:
        client.delete_registered_model_tag(model, _ROLLING_BACK)


def _under(there: RegisteredModel, alias: str) -> int | None:
    """The version under an alias: backends differ in whether it is a number or text."""
    version = there.aliases.get(alias)
    return None if version is None else int(version)


def _released(client: MlflowClient, model: str, version: int) -> ModelVersion:
    chosen = resolve(client, model, version)
    check_released(chosen)
    return chosen


def _release(chosen: ModelVersion, alias: str | None, decision: Decision) -> Release:
    return Release(chosen.name, int(chosen.version), alias, chosen.run_id or "", decision.promoted, decision.reason)


def _as_tag(decision: Decision) -> str:
    values = asdict(decision)
    # JSON has no NaN; what refused a release should still be readable there.
    values["figures"] = {
        name: figure if math.isfinite(figure) else str(figure) for name, figure in decision.figures.items()
    }
    text = canonical_json(values).decode()
    if len(text) <= _LONGEST_TAG:
        return text
    return canonical_json({**values, "figures": {}, "reason": decision.reason[:_LONGEST_REASON]}).decode()


def _decision(chosen: ModelVersion) -> Decision | None:
    """What was last decided about this version; None if nothing was that can be read."""
    try:
        values = json.loads(chosen.tags["ganline.decision"])
        figures = {name: float(figure) for name, figure in values.get("figures", {}).items()}
        return Decision(values["promoted"], values["reason"], values.get("rule", ""), figures, values.get("against"))
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _promoted(chosen: ModelVersion) -> Decision | None:
    decision = _decision(chosen)
    return decision if decision is not None and decision.promoted else None
