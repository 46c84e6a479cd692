"""What the registry's releases were made of, and so must stay."""

from mlflow.tracking import MlflowClient

from pipeline.registry.versions import versions_where


def released_checkpoints(client: MlflowClient) -> dict[str, str]:
    """By path in the storage root, as `faces version 3`: of every version of every model that is there still."""
    return _by_tag(client, "ganline.checkpoint")


def released_datasets(client: MlflowClient) -> dict[str, str]:
    """Likewise, by the digest of the dataset version."""
    return _by_tag(client, "ganline.dataset")


def _by_tag(client: MlflowClient, tag: str) -> dict[str, str]:
    named: dict[str, list[str]] = {}
    for version in versions_where(client):
        if value := version.tags.get(tag):
            named.setdefault(value, []).append(f"{version.name} version {version.version}")
    return {value: ", ".join(sorted(names)) for value, names in named.items()}
