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
from pipeline.patience import first_line
from pipeline.progress import note
from pipeline.redact import redact_within
from pipeline.registry import audit
from pipeline.registry.gate import Decision
from pipeline.registry.lookup import check_released, registered, resolve
from pipeline.registry.promotion_lock import Held, promotion_lock
from pipeline.registry.reference import CHAMPION, PREVIOUS, check_model_name
from pipeline.registry.reported import EVALUATION, PAGE
from pipeline.registry.runs import log_file, log_files
from pipeline.storage import sha256

_LONGEST_TAG = 5000  # MLflow itself takes more, some backends do not
_LONGEST_REASON = 500

# On the registered model while a rollback is on its way: the version that it goes to.
_ROLLING_BACK = "ganline.rolling_back"
# On a version that a rollback took `champion` from.
ROLLED_BACK = "ganline.rolled_back"


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
    `dataset`, `config` (digests), `run`, `checkpoint` (names), `images`, and a `licence` if there is one. The version
    has no alias, and is a model of MLflow's too: `mlflow models serve` serves it.
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

    others = {"model": model} | {key: value for key, value in lineage.items() if key != "classes"}
    document = canonical_json({"spec": spec.to_dict(), "classes": classes, "lineage": others})
    logged = log_generator(client, run_id, weights, document, encoder, spec.classes, others)
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
            "ganline.logged_model": logged.model_id,  # MLflow's database keeps no word of it
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
    by: str | None = None,
) -> Release:
    """Has `version` judged against the champion, writes the decision on it, and does what it says.

    `judge(champion)` gives the decision and the evaluation report. It may take its time: no lock is held
    meanwhile, and if the champion has moved when it is done, it is called again with the new one. It is not
    called for a version that is champion already. `by` is who asks for it; this process by default. Raises UserError
    as `promote` does, and if the champion moves under each of the `attempts`.
    """
    for _ in range(attempts):
        chosen, champion = _released(client, model, version), champion_version(client, model)
        if champion == version and (old := _promoted(chosen)):
            _complete_audit(client, chosen)
            return _release(chosen, CHAMPION, old)
        if ROLLED_BACK in chosen.tags:  # a person's word against it stands until a person's word for it
            reason = f"it was rolled back {chosen.tags[ROLLED_BACK]}; `ganline promote {model} --version {version}`"
            decision = Decision(False, reason, "rolled_back", {}, champion)
            audit.write(client, chosen, record_decision(client, model, version, decision, by=by))
            return _release(chosen, None, decision)
        decision, report = judge(champion)
        evidence = log_evaluation(client, chosen, report) if report else {}  # may take longer than a lock lasts
        if not decision.promoted:
            audit.write(client, chosen, record_decision(client, model, version, decision, evidence, by))
            return _release(chosen, None, decision)
        entry = None
        with promotion_lock(client, model) as lock:
            if champion_version(client, model) == champion:
                entry = record_decision(client, model, version, decision, evidence, by)
                _make_champion(client, model, version, lock)
        if entry:
            _audit_after(client, chosen, entry)
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
    return {EVALUATION: path, f"{EVALUATION}.sha256": sha}


def name_page(client: MlflowClient, model: str, version: int, name: str, files: dict[str, bytes]) -> None:
    """Stores the page on a version, `index.html` and what lies beside it, among the artifacts of the version's run.

    The version's tag `ganline.page` is the page's path there. Another page needs another `name`.
    """
    chosen, folder = _released(client, model, version), f"release/page-{name[:12]}"
    log_files(client, chosen.run_id or "", files, folder)
    client.set_model_version_tag(model, str(version), PAGE, f"{folder}/index.html")


def record_decision(
    client: MlflowClient,
    model: str,
    version: int,
    decision: Decision,
    evidence: dict[str, str] | None = None,
    by: str | None = None,
) -> dict[str, Any]:
    """Writes the decision on the version, and with it `evidence`, the tags of what it was made on. Moves no alias.

    Tags: `ganline.decision` (canonical JSON), `ganline.promoted`, `ganline.reason`. The page on another evaluation is
    the version's no more. Gives the entry for the audit.
    """
    if evidence:
        before = client.get_model_version(model, str(version)).tags
        if PAGE in before and before.get(EVALUATION) != evidence[EVALUATION]:
            client.delete_model_version_tag(model, str(version), PAGE)
    entry = _entry(model, version, decision, by) | ({"evaluation": evidence} if evidence else {})
    tags = dict(evidence or {})
    tags["ganline.promoted"] = str(decision.promoted).lower()
    tags["ganline.reason"] = decision.reason[:_LONGEST_REASON]
    tags["ganline.decision"] = _as_tag(entry)  # last: what else is there belongs to it
    for key, value in tags.items():
        client.set_model_version_tag(model, str(version), key, value)
    return entry


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
                client.set_model_version_tag(model, str(champion), ROLLED_BACK, f"to version {target}")
            lock.check()
            client.set_registered_model_alias(model, CHAMPION, str(target))
        if ROLLED_BACK in chosen.tags:
            client.delete_model_version_tag(model, str(target), ROLLED_BACK)
        with suppress(MlflowException):  # there was nothing to do
            client.delete_registered_model_tag(model, _ROLLING_BACK)
    reason = "rolled back" if champion in (None, target) else f"rolled back from version {champion}"
    _audit_after(client, chosen, _entry(model, target, Decision(True, reason, "rollback", {}, champion)))
    if champion not in (None, target):
        left = Decision(False, f"rolled back to version {target}", "rollback", {}, target)
        _audit_after(client, resolve(client, model, champion), _entry(model, champion, left))
    return Release(model, target, CHAMPION, chosen.run_id or "", True, reason)


def _promote(
    client: MlflowClient, model: str, version: int, decide: Callable[[int | None, ModelVersion], Decision]
) -> Release:
    _released(client, model, version)  # no lock for a model that does not exist
    with promotion_lock(client, model) as lock:
        chosen, old = _released(client, model, version), champion_version(client, model)
        if ROLLED_BACK in chosen.tags:
            client.delete_model_version_tag(model, str(version), ROLLED_BACK)
        known = _promoted(chosen) if old == version else None
        if known is None:
            decision = decide(old, chosen)
            entry = record_decision(client, model, version, decision)
            _make_champion(client, model, version, lock)
    if known is not None:
        _complete_audit(client, chosen)
        return _release(chosen, CHAMPION, known)
    _audit_after(client, chosen, entry)
    return _release(chosen, CHAMPION, decision)


def _audit_after(client: MlflowClient, chosen: ModelVersion, entry: dict[str, Any]) -> None:
    """The alias has moved by now, and no failure of the artifact store makes that undone."""
    try:
        audit.write(client, chosen, entry)
    except Exception as error:  # each artifact store has its own
        why = redact_within(first_line(error))
        note(f"it is done, but no record of it could be stored beside version {chosen.version}: {why}")


def _complete_audit(client: MlflowClient, chosen: ModelVersion) -> None:
    """Stores what was decided last where that was cut off: as much of it as the version's tag has."""
    try:
        entry = json.loads(chosen.tags["ganline.decision"])
        known = "id" not in entry or audit.is_written(client, chosen, entry["id"])
    except Exception:  # the same: it is tried again next time
        return
    if not known:
        _audit_after(client, chosen, entry)


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


def _entry(model: str, version: int, decision: Decision, by: str | None = None) -> dict[str, Any]:
    """A decision as JSON: who decided what about which version, against whom, on which figures, by which rules."""
    entry = audit.new_id()
    return {
        "id": entry,
        "at": audit.decided_at(entry),
        "by": by or audit.whoami(),
        "model": model,
        "version": version,
        **asdict(decision),
        # JSON has no NaN; what refused a release should still be readable there.
        "figures": {name: value if math.isfinite(value) else str(value) for name, value in decision.figures.items()},
    }


def _as_tag(entry: dict[str, Any]) -> str:
    """Without what the tag's owner says, nor each rule; and without figures where it would be too long."""
    told = {key: value for key, value in entry.items() if key not in ("model", "version", "checks", "evaluation")}
    text = canonical_json(told).decode()
    if len(text) <= _LONGEST_TAG:
        return text
    return canonical_json({**told, "figures": {}, "reason": told["reason"][:_LONGEST_REASON]}).decode()


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
