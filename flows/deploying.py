"""`ganline deploy`: a recipe as a deployment that Prefect's workers run, on a schedule or when asked to."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.command import run_command, working
from flows.console import Console
from flows.options import Json, Recipe, Sets, StorageOption
from pipeline.errors import UserError
from pipeline.recipe import load_config

if TYPE_CHECKING:
    from flows.deployment import Deployment


def add_to(app: typer.Typer) -> None:
    app.command()(deploy)
    app.command()(deploy_housekeeping)


Cron = Annotated[str | None, typer.Option(help="when it runs by itself; without it, when it is asked to")]
Timezone = Annotated[str, typer.Option(help="of --cron, as in Europe/Berlin")]
Pool = Annotated[str, typer.Option(help="work pool; made for processes if there is none of that name")]


def deploy(
    recipe: Recipe,
    sets: Sets = None,
    cron: Cron = None,
    timezone: Timezone = "UTC",
    pool: Pool = "ganline",
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
        place = _for_workers(storage or config.storage)
        with working(console, None, "deploy"):
            from flows.deployment import make_deployment

            made = make_deployment(config, place, pool, cron, timezone, busy)
        _tell(console, made, pool, busy, cron, timezone)

    run_command(act, as_json)


def deploy_housekeeping(
    name: Annotated[str, typer.Argument(help="of the deployment, housekeeping/NAME")] = "ganline",
    days: Annotated[float, typer.Option(min=0, help="as of ganline datasets prune")] = 7,
    unreleased: Annotated[bool, typer.Option("--unreleased", help="whole runs that no release names, too")] = False,
    cron: Cron = None,
    timezone: Timezone = "UTC",
    pool: Pool = "ganline",
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Gives what `ganline runs prune --yes` and `ganline datasets prune --yes` do to the Prefect server.

    Each storage root needs a deployment, and a name, of its own. Doing it again replaces what there was.

    Example: ganline deploy-housekeeping team --storage s3://team/ganline --cron "0 6 * * 0" --unreleased
    """

    def act(console: Console) -> None:
        place = _for_workers(storage)
        with working(console, None, "deploy"):
            from flows.deployment import make_housekeeping

            made = make_housekeeping(name, place, days, unreleased, pool, cron, timezone)
        _tell(console, made, pool, "refuse", cron, timezone)

    run_command(act, as_json)


def _for_workers(storage: str | None) -> str:
    if not storage:
        raise UserError("say where workers find everything: --storage s3://..., or a folder that all of them see")
    return storage


def _tell(console: Console, made: "Deployment", pool: str, busy: str, cron: str | None, timezone: str) -> None:
    when = f"runs at {cron} {timezone}" if cron else "runs when it is asked to"
    values = {"deployment": made.name, "id": made.id, "pool": pool, "busy": busy, "cron": cron}
    console.result(
        values | {"timezone": timezone if cron else None},
        [
            f"{made.name} {when}; now: prefect deployment run {made.name}",
            f"a worker: prefect worker start --pool {pool}",
        ],
    )
