"""`ganline datasets`: what there is of datasets, and the cleaning away of versions that nobody needs."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from flows.command import run_command, working
from flows.console import Console
from flows.options import Json, StorageOption, existing
from flows.summary import megabytes
from pipeline.storage import Storage

if TYPE_CHECKING:
    from pipeline.shards.pruning import Pruning

app = typer.Typer(help="Lists datasets, and cleans old versions away.\n\nExample: ganline datasets")


@app.callback(invoke_without_command=True)
def datasets(context: typer.Context, storage: StorageOption = None, as_json: Json = False) -> None:
    """Lists datasets, and cleans old versions away; without a command, it lists the datasets.

    Example: ganline datasets
    """
    if context.invoked_subcommand is None:
        list_(storage, as_json)
    elif storage or as_json:
        raise typer.TyperException(
            f"write options after the command: ganline datasets {context.invoked_subcommand} ..."
        )


@app.command("list")
def list_(storage: StorageOption = None, as_json: Json = False) -> None:
    """Lists the datasets: the latest version and its images, how many versions there are, and what all take.

    Example: ganline datasets list --json
    """

    def act(console: Console) -> None:
        place = existing(storage)
        with working(console, None, "datasets"):
            from pipeline.shards.listed import list_datasets

            found = list_datasets(place)
        lines = [
            f"{one.name}: {one.images:,} images in {one.latest[:12] or 'no version'}, the latest of {one.versions};"
            f" {megabytes(one.bytes)}"
            for one in found
        ]
        console.result({"datasets": [asdict(one) for one in found]}, lines or [f"there is no dataset in {place.name}"])

    run_command(act, as_json)


@app.command()
def prune(
    names: Annotated[list[str] | None, typer.Argument(metavar="[DATASET]...", help="default: all datasets")] = None,
    days: Annotated[float, typer.Option(min=0, help="versions stay that were the latest less than so long ago")] = 7,
    yes: Annotated[bool, typer.Option("--yes", help="do it; without this it says what it would do")] = False,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Deletes dataset versions that nobody needs, and the shards that are in no other; or says which.

    The latest stays, and what any run or release was trained on. A dataset that is being sharded is left alone.
    `ganline runs prune --unreleased` before this lets go of more.

    Example: ganline datasets prune faces --yes
    """

    def act(console: Console) -> None:
        place = existing(storage)
        with working(console, place if yes else None, "datasets"):
            from pipeline.shards.listed import dataset_names
            from pipeline.shards.pruning import prune_dataset

            found = dataset_names(place, names or ())
            # All are looked at first: where one can not be read, or no registry answers, nothing has been deleted.
            for really in (False, True) if yes else (False,):
                needed = cache(lambda: _needed(place))
                pruned = [prune_dataset(place, name, needed, days, really=really) for name in found]
                needed.cache_clear()
            if yes:
                _drop_evaluations(place, pruned)
        size = sum(one.bytes for one in pruned)
        values = {"done": yes, "bytes": size, "datasets": [asdict(one) for one in pruned]}
        console.result(values, _lines(pruned, yes, size))

    run_command(act, as_json, resumable=yes)


def _needed(place: Storage) -> Mapping[str, str]:
    """What runs and releases name now, by digest. Raises UserError if the registry does not answer."""
    from pipeline.registry.named import released_datasets
    from pipeline.registry.server import NoRegistry, client
    from pipeline.training.runs import datasets_of_runs

    try:
        released = released_datasets(client(place, create=False))
    except NoRegistry:
        released = {}
    return {**datasets_of_runs(place), **{digest: f"of {names}" for digest, names in released.items()}}


def _drop_evaluations(place: Storage, pruned: "list[Pruning]") -> None:
    from pipeline.evaluation.drop import drop_evaluations

    if gone := {digest for one in pruned for digest in one.versions}:
        drop_evaluations(place, gone)


def _lines(pruned: "list[Pruning]", done: bool, size: int) -> list[str]:
    lines = []
    for one in pruned:
        lines += [f"{one.name}@{digest[:12]} stays: {why}" for digest, why in one.kept.items()]
        lines += [f"{one.name}@{digest[:12]}" for digest in one.versions]
        lines += [one.busy] if one.busy else []
    versions, files = sum(len(one.versions) for one in pruned), sum(len(one.files) for one in pruned)
    halves = sum(len(one.halves) for one in pruned)
    what = f"{versions} versions, {halves} half-written ones, {files} files of shards: {megabytes(size)}"
    return [*lines, f"deleted {what}" if done else f"would delete {what}; do it: --yes"]
