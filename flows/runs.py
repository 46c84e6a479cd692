"""`ganline runs`: what there is of runs and checkpoints, and the cleaning away of what nobody needs."""

from typing import Annotated

import typer

from flows import summary
from flows.command import run_command, working
from flows.console import Console
from flows.options import Json, StorageOption, existing
from pipeline.errors import UserError

app = typer.Typer(help="Lists runs and their checkpoints, and cleans them away.\n\nExample: ganline runs")


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, storage: StorageOption = None, as_json: Json = False) -> None:
    """Lists runs and their checkpoints, and cleans them away; without a command, it lists the runs.

    Example: ganline runs
    """
    if context.invoked_subcommand is None:
        list_(storage, as_json)
    elif storage or as_json:
        raise typer.TyperException(f"write options after the command: ganline runs {context.invoked_subcommand} ...")


@app.command("list")
def list_(storage: StorageOption = None, as_json: Json = False) -> None:
    """Lists the runs: how far, in what state, how large.

    Images seen of those wanted; running, finished, stopped or failed; checkpoints and bytes on disk; the last figures.

    Example: ganline runs list --json
    """

    def act(console: Console) -> None:
        place = existing(storage)
        with working(console, None, "runs"):
            from pipeline.training.runs import list_runs

            found = list_runs(place)
        console.result({"runs": summary.run_values(found)}, summary.run_lines(found, place))

    run_command(act, as_json)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="the run's name")],
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Shows a run's checkpoints, and what keeps each.

    Example: ganline runs show mnist-0d5fba6d1e2f
    """

    def act(console: Console) -> None:
        place = existing(storage)
        with working(console, None, "runs"):
            from flows.cleaning import releases_there
            from pipeline.training.checkpoint import unfinished
            from pipeline.training.pruning import may_be_named_elsewhere
            from pipeline.training.runs import finished_runs, look_at_checkpoints, look_at_run, run_names

            run_names(place, [run])
            ends = finished_runs(place)
            found, checkpoints = look_at_run(place, run, ends), look_at_checkpoints(place, run, ends)
            halves = unfinished(place, run)
            released: dict[str, str] | None = {}
            if any(one.marked for one in checkpoints):
                try:
                    there = releases_there(place)
                    released = None if may_be_named_elsewhere(run, ends, there) else dict(there.of)
                except UserError as away:
                    console.say(f"releases are not shown: {away}")
                    released = None
        values = summary.checkpoint_values(checkpoints, released)
        console.result(
            {"run": summary.run_values([found])[0], "checkpoints": values, "unfinished": halves},
            [*summary.run_lines([found], place), *summary.checkpoint_lines(values, halves)],
        )

    run_command(act, as_json)


@app.command()
def prune(
    names: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="default: all runs")] = None,
    keep_last: Annotated[
        int | None, typer.Option(min=1, help="newest checkpoints to keep; default: as the recipe says")
    ] = None,
    keep_best: Annotated[
        int | None, typer.Option(min=0, help="checkpoints to keep for their distance; default: as the recipe says")
    ] = None,
    unreleased: Annotated[bool, typer.Option("--unreleased", help="whole runs that no release names, too")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do it; without this it says what it would do")] = False,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Deletes checkpoints that nobody needs, or says which.

    They are those beyond the last and the best, and half-written ones. What a release names stays, and so does each
    run's newest checkpoint, and what a fork began with. A run that is being trained is left alone. MLflow keeps its
    runs.

    Example: ganline runs prune --keep-last 1 --unreleased --yes
    """

    def act(console: Console) -> None:
        place = existing(storage)
        with working(console, None, "runs"):
            from flows.cleaning import prune_runs

            pruned = prune_runs(place, names or (), keep_last, keep_best, unreleased, really=yes)
        console.result(summary.pruning_values(pruned, yes), summary.pruning_lines(pruned, yes))

    run_command(act, as_json)
