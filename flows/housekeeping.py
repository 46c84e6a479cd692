"""The flow that lets go of what nobody needs any more."""

from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows import cleaning, datasets, summary
from flows.on_worker import check_registry, in_log
from flows.stage_task import stage_task
from pipeline.progress import note
from pipeline.storage import Storage


@flow(name="housekeeping")
def keep_house(storage_uri: str, days: float = 7, unreleased: bool = False) -> dict[str, Any]:
    """Deletes checkpoints beyond those that recipes keep, with `unreleased` whole runs, and dataset versions that were
    the latest more than `days` ago, as far as no release or run needs them. An artifact tells of it."""
    storage = Storage(storage_uri)
    with in_log():
        check_registry(storage)
        return {"runs": prune_runs(storage, unreleased), "datasets": prune_datasets(storage, days)}


@stage_task
def prune_runs(storage: Storage, unreleased: bool) -> list[dict[str, Any]]:
    pruned = cleaning.prune_runs(storage, (), None, None, unreleased, really=True)
    _tell("runs", summary.pruning_lines(pruned, True))
    return [asdict(one) for one in pruned]


@stage_task
def prune_datasets(storage: Storage, days: float) -> list[dict[str, Any]]:
    pruned = cleaning.prune_datasets(storage, (), days, really=True)
    _tell("datasets", datasets.pruning_lines(pruned, True))
    return [asdict(one) for one in pruned]


def _tell(what: str, lines: list[str]) -> None:
    for line in lines:
        note(line)
    create_markdown_artifact(
        "\n".join(f"- {line}" for line in lines), key=f"housekeeping-{what}", description=lines[-1]
    )
