"""`ganline datasets`: what there is of datasets, and the cleaning away of versions that nobody needs."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flows.command import run_command, working
from flows.console import Console
from flows.options import Json, StorageOption, existing
from flows.summary import megabytes

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
            from flows.cleaning import prune_datasets

            pruned = prune_datasets(place, names or (), days, really=yes)
        values = {"done": yes, "bytes": sum(one.bytes for one in pruned), "datasets": [asdict(one) for one in pruned]}
        console.result(values, pruning_lines(pruned, yes))

    run_command(act, as_json, resumable=yes)


def pruning_lines(pruned: "list[Pruning]", done: bool) -> list[str]:
    lines = []
    for one in pruned:
        lines += [f"{one.name}@{digest[:12]} stays: {why}" for digest, why in one.kept.items()]
        lines += [f"{one.name}@{digest[:12]}" for digest in one.versions]
        lines += [one.busy] if one.busy else []
    versions, files = sum(len(one.versions) for one in pruned), sum(len(one.files) for one in pruned)
    halves = sum(len(one.halves) for one in pruned)
    size = megabytes(sum(one.bytes for one in pruned))
    what = f"{versions} versions, {halves} half-written ones, {files} files of shards: {size}"
    return [*lines, f"deleted {what}" if done else f"would delete {what}; do it: --yes"]
