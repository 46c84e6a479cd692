"""`ganline deploy`: a recipe as a deployment that Prefect's workers run, on a schedule or when asked to."""

from typing import Annotated, Literal

import typer

from flows.command import run_command, working
from flows.console import Console
from flows.options import Json, Recipe, Sets, StorageOption
from pipeline.errors import UserError
from pipeline.recipe import load_config


def add_to(app: typer.Typer) -> None:
    app.command()(deploy)


def deploy(
    recipe: Recipe,
    sets: Sets = None,
    cron: Annotated[str | None, typer.Option(help="when it runs by itself; without it, when it is asked to")] = None,
    timezone: Annotated[str, typer.Option(help="of --cron, as in Europe/Berlin")] = "UTC",
    pool: Annotated[str, typer.Option(help="work pool; made for processes if there is none of that name")] = "ganline",
    busy: Annotated[
        Literal["wait", "refuse"], typer.Option(help="what a run does while another of the model is under way")
    ] = "wait",
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Gives a recipe to the Prefect server that PREFECT_API_URL names, whose workers run it: one run at a time.

    Doing it again replaces what there was. Credentials stay in the workers' environment.

    Example: ganline deploy mnist --storage s3://team/ganline --cron "0 2 * * *" --timezone Europe/Berlin
    """

    def act(console: Console) -> None:
        config = load_config(recipe, sets)
        place = storage or config.storage
        if not place:
            raise UserError("say where workers find everything: --storage s3://..., or a folder that all of them see")
        with working(console, None, "deploy"):
            from flows.deployment import make_deployment

            made = make_deployment(config, place, pool, cron, timezone, busy)
        start = f"prefect worker start --pool {pool}"
        again = f"prefect deployment run {made.name}"
        when = f"runs at {cron} {timezone}" if cron else "runs when it is asked to"
        values = {"deployment": made.name, "id": made.id, "pool": pool, "busy": busy, "cron": cron}
        console.result(
            values | {"timezone": timezone if cron else None},
            [f"{made.name} {when}; now: {again}", f"a worker: {start}"],
        )

    run_command(act, as_json)
