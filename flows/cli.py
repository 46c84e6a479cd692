"""The `ganline` command."""

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from flows import care, datasets, deploying, exporting, history, indexing, models, preflight, runs, serving, summary
from flows.command import EXIT_BAD_INPUT, local_root, run_command, working
from flows.console import Console
from flows.options import Fork, Json, Recipe, Restart, Sets, StorageOption, existing, prepared
from pipeline.recipe import load_config, parse_config

# Heavy imports (torch, Ray, MLflow, Prefect) stay inside the commands that need them: `--help` answers at once.

app = typer.Typer(
    help="Turns a folder of images into a released image generator.\n\n"
    "Example: ganline run mnist, then ganline generate mnist@champion --out digits.png",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Shows, checks or names a recipe's resolved configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(runs.app, name="runs")
app.add_typer(datasets.app, name="datasets")
models.add_to(app)
app.command()(history.releases)
care.add_to(app)
indexing.add_to(app)
exporting.add_to(app)
serving.add_to(app)
deploying.add_to(app)


@app.command()
def run(
    recipe: Recipe,
    sets: Sets = None,
    restart: Restart = False,
    fork: Fork = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Shards, trains, measures and releases: the whole way, as one Prefect flow.

    Start the same command again after any stop: it continues. What is unchanged is not done twice.

    Example: ganline run mnist --set training.images=50000
    """

    def act(console: Console) -> None:
        config = load_config(recipe, sets)
        there = existing(storage or config.storage)
        with working(console, None, "run"):
            preflight.check_run(config, there, restart, fork, keep=not dry_run)
        if dry_run:
            from flows.dry_run import describe_run

            console.result(*describe_run(there, config, restart, fork))
            return
        place = prepared(storage, config)
        with working(console, place, "run"):
            from flows.prefect_api import temporary_api

            with temporary_api(local_root(place) / "prefect") as api:
                from flows.release import run_release
                from pipeline.on_ray import one_cluster

                if api:
                    api.ready()
                with one_cluster(), console.progress():
                    outcome = run_release(config, place, restart, fork)
        console.result(summary.outcome_values(outcome), summary.outcome_lines(outcome, place))

    run_command(act, as_json, resumable=True, restart=restart)


@app.command()
def shard(
    source: Annotated[
        str, typer.Argument(help="a folder, a zip, a tar, mnist5k or stacked_mnist; sub-folders are classes")
    ],
    name: Annotated[str, typer.Option("--name", help="the dataset's name")],
    resolution: Annotated[int | None, typer.Option(help="pixels a side; default 64 (28 for built-in digits)")] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3; default 3 (1 for mnist5k)")] = None,
    encoding: Annotated[str, typer.Option(help="raw, webp, png, or auto")] = "auto",
    background: Annotated[str | None, typer.Option(help="what lies under transparent pixels; default white")] = None,
    held_out: Annotated[float | None, typer.Option(help="share never trained on; default 0.05")] = None,
    shard_images: Annotated[int | None, typer.Option(help="images a shard; default 1000")] = None,
    compact: Annotated[bool, typer.Option("--compact", help="merge shards that have few images")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="as if there were no version before")] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="open files whose size and time did not change too")] = False,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Turns images into a dataset version: WebDataset tars, an index and a manifest.

    Start it again when images were added or removed: only new ones are read, and only their shards written.

    Example: ganline shard ./photos --name photos --resolution 64
    """

    def act(console: Console) -> None:
        keys = {"background": background, "held_out": held_out, "shard_images": shard_images}
        data = {
            "source": source, "resolution": resolution, "channels": channels, "encoding": encoding,
            **{key: value for key, value in keys.items() if value is not None},
        }  # fmt: skip
        config = parse_config({"name": name, "data": data}, "shard")
        preflight.check_source(config, for_training=False)
        place = prepared(storage, config)
        with working(console, place, "shard"), console.progress():
            from flows import stages

            ingest = stages.shard(place, config, compact=compact, rebuild=rebuild, rehash=rehash)
        console.result(summary.ingest_values(ingest), summary.ingest_lines(ingest, place))

    run_command(act, as_json, resumable=True)


@app.command()
def train(
    recipe: Recipe,
    sets: Sets = None,
    restart: Restart = False,
    fork: Fork = None,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Trains on the recipe's dataset as `ganline shard` or `ganline run` last made it.

    With --fork all state of an old checkpoint (see `ganline runs show RUN`) begins a run of its own, under the recipe
    as it is now; start the same command again and that run goes on.

    Example: ganline train mnist --set training.images=50000
    """

    def act(console: Console) -> None:
        config = load_config(recipe, sets)
        there = existing(storage or config.storage)
        with working(console, None, "train"):
            preflight.check_services(config, there, restart, fork)
            dataset = preflight.check_dataset(config, there)
            if fork:
                preflight.check_fork(config, there, fork, restart)
        place = prepared(storage, config)
        with working(console, place, "train"), console.progress():
            from flows import stages

            stages.admit(place, config, dataset)
            training = stages.train(place, config, dataset, restart, fork)
        console.result(summary.training_values(training), summary.training_lines(training, place))

    run_command(act, as_json, resumable=True, restart=restart)


@config_app.command("show")
def config_show(recipe: Recipe, sets: Sets = None, as_json: Json = False) -> None:
    """Prints the recipe with every default filled in. Example: ganline config show mnist"""

    def act(console: Console) -> None:
        import yaml

        values = load_config(recipe, sets).model_dump(mode="json")
        console.result(values, [yaml.safe_dump(values, sort_keys=False).rstrip()])

    run_command(act, as_json)


@config_app.command("validate")
def config_validate(recipe: Recipe, sets: Sets = None, as_json: Json = False) -> None:
    """Checks a recipe; exit code 2 and one line if it is wrong. Example: ganline config validate my.yaml"""

    def act(console: Console) -> None:
        config = load_config(recipe, sets)
        config.network_spec(config.data.channels or 3, int(bool(config.model.conditional)))
        console.result({"valid": True, "name": config.name}, [f"{recipe} is valid"])

    run_command(act, as_json)


@config_app.command("digest")
def config_digest(recipe: Recipe, sets: Sets = None, as_json: Json = False) -> None:
    """Prints the sha256 of the resolved recipe. Example: ganline config digest mnist"""

    def act(console: Console) -> None:
        config = load_config(recipe, sets)
        console.result({"digest": config.digest(), "name": config.name}, [config.digest()])

    run_command(act, as_json)


def main() -> None:
    """The entry point: what typer would say of a wrong option in several lines is said in one."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:  # a wrong option or argument
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "ganline"
        message = getattr(error, "format_message", error.__str__)().rstrip(".")
        if message.startswith("Usage:"):  # no arguments at all
            print(message)
        else:
            Console(as_json=False).say(f"ganline: {message}; see `{command} --help`")
        code = EXIT_BAD_INPUT
    except typer.Abort:
        code = 128 + signal.SIGINT
    _leave(code or 0)


def _leave(code: int) -> NoReturn:
    """As Python does, but for the end: there C++ libraries are torn down, and on a busy machine one of them now and
    then aborts a command that is done.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(code)
