"""All versions that the registry has, page by page."""

from collections.abc import Iterator

from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

_PAGE = 200


def versions_where(
    client: MlflowClient, which: str | None = None, newest_first: bool = False
) -> Iterator[ModelVersion]:
    """Those that MLflow's filter `which` lets through, asked for as they are wanted; None: all of every model."""
    order, token = ["version_number DESC"] if newest_first else None, None
    while True:
        page = client.search_model_versions(which, _PAGE, order, token)
        yield from page
        token = page.token
        if not token:
            return
