"""Which checkpoints the registry's releases were made of."""

from mlflow.tracking import MlflowClient

from pipeline.registry.versions import versions_where


def released_checkpoints(client: MlflowClient) -> dict[str, str]:
    """By path in the storage root, as `faces version 3`: of every version of every model that is there still."""
    named: dict[str, list[str]] = {}
    for version in versions_where(client):
        if path := version.tags.get("ganline.checkpoint"):
            named.setdefault(path, []).append(f"{version.name} version {version.version}")
    return {path: ", ".join(sorted(names)) for path, names in named.items()}
