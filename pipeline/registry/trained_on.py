"""Which releases were trained on a dataset version."""

from collections.abc import Iterable
from dataclasses import dataclass

from mlflow.tracking import MlflowClient

from pipeline.registry.versions import versions_where


@dataclass(frozen=True)
class TrainedOn:
    """A model version, the aliases that it has now, its run, and the digest of the dataset version."""

    model: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    dataset: str


def releases_trained_on(client: MlflowClient, digests: Iterable[str]) -> list[TrainedOn]:
    """Every model version that names one of these dataset versions, by name and number."""
    named = (f"tags.`ganline.dataset` = '{digest}'" for digest in digests)
    found = [version for which in named for version in versions_where(client, which)]
    aliases: dict[tuple[str, int], list[str]] = {}
    for model in {version.name for version in found}:
        for alias, number in client.get_registered_model(model).aliases.items():
            aliases.setdefault((model, int(number)), []).append(alias)
    releases = [
        TrainedOn(
            model=version.name,
            version=int(version.version),
            aliases=tuple(sorted(aliases.get((version.name, int(version.version)), []))),
            run_id=version.run_id or "",
            dataset=version.tags["ganline.dataset"],
        )
        for version in found
    ]
    return sorted(releases, key=lambda release: (release.model, release.version))
