"""The versions of a model, and what was decided about each."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.tracking import MlflowClient

from pipeline.registry import audit
from pipeline.registry.lookup import registered, resolve
from pipeline.registry.releases import ROLLED_BACK
from pipeline.registry.reported import EVALUATION, PAGE
from pipeline.registry.versions import versions_where

_KINDS: dict[str, type] = {
    "at": str, "by": str, "promoted": bool, "rule": str, "reason": str, "against": int, "figures": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """A version with its aliases, its origin, and the last decision about it, which is None where there was none.

    `created` and `decided` are ISO 8601 in UTC, `by` is who decided, `against` the champion's version at that moment,
    `figures` what was decided on, `has_report` whether the evaluation lies beside it. `rolled_back` says to which
    version a rollback went from this one.
    """

    version: int
    aliases: tuple[str, ...]
    created: str
    run: str
    dataset: str
    decided: str | None
    by: str | None
    promoted: bool | None
    rule: str | None
    reason: str | None
    against: int | None
    figures: dict[str, float | str]
    rolled_back: str | None
    has_report: bool


def releases_of(client: MlflowClient, model: str, most: int | None = None) -> list[Listed]:
    """Every version that is there, or the `most` newest, the newest first. Raises UserError for an unknown model."""
    there = registered(client, model)
    found = versions_where(client, f"name = '{model}'", newest_first=True)
    return [_listed(version, there) for version in islice(found, most)]


def release_of(client: MlflowClient, model: str, version: int) -> tuple[Listed, list[dict[str, Any]]]:
    """One version, and all that was ever decided about it, the newest first. Raises UserError for an unknown one."""
    found = resolve(client, model, version)
    return _listed(found, registered(client, model)), audit.read(client, found)


def _listed(version: ModelVersion, there: RegisteredModel) -> Listed:
    decision, number = _decision(version), int(version.version)
    return Listed(
        version=number,
        aliases=tuple(sorted(alias for alias, other in there.aliases.items() if int(other) == number)),
        created=f"{datetime.fromtimestamp(version.creation_timestamp / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}",
        run=version.tags.get("ganline.run", ""),
        dataset=version.tags.get("ganline.dataset", ""),
        decided=decision.get("at"),
        by=decision.get("by"),
        promoted=decision.get("promoted"),
        rule=decision.get("rule"),
        reason=decision.get("reason"),
        against=decision.get("against"),
        figures=decision.get("figures", {}),
        rolled_back=version.tags.get(ROLLED_BACK),
        has_report=PAGE in version.tags or EVALUATION in version.tags,
    )


def _decision(version: ModelVersion) -> dict[str, Any]:
    """What its tag says; nothing of what somebody else wrote there."""
    try:
        values = json.loads(version.tags["ganline.decision"])
        kept = {name: values[name] for name, kind in _KINDS.items() if isinstance(values.get(name), kind)}
    except (KeyError, ValueError, AttributeError):
        return {}
    figures = kept.get("figures", {})
    return {**kept, "figures": {name: each for name, each in figures.items() if isinstance(each, int | float | str)}}
