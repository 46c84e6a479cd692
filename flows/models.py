"""Commands on released models and finished runs."""

from typing import Annotated

import typer

from flows import summary
from flows.command import run_command, working
from flows.console import Console
from flows.options import MOST_FILES, Json, Reference, StorageOption, existing
from pipeline.recipe import with_evaluation
from pipeline.registry.reference import CHAMPION


def add_to(app: typer.Typer) -> None:
    for command in (lookup, generate, evaluate, release, promote, rollback):
        app.command()(command)


def lookup(reference: Reference, storage: StorageOption = None, as_json: Json = False) -> None:
    """Says what a released model is and where it came from.

    Example: ganline lookup mnist@champion --json
    """

    def act(console: Console) -> None:
        place = existing(storage)
        with working(console, None, "lookup"), console.progress():
            from pipeline.registry.lookup import lookup as find

            found = find(reference, place)
        console.result(summary.found_values(found), summary.found_lines(found))

    run_command(act, as_json)


def generate(
    reference: Reference,
    n: Annotated[int, typer.Option("-n", min=1, help="how many images")] = 64,
    seed: Annotated[int, typer.Option(help="image i depends on the seed and i alone")] = 0,
    out: Annotated[str, typer.Option(help="a .png for one grid, else a folder, local or s3://")] = "grid.png",
    label: Annotated[str | None, typer.Option(help="one class by name; default: all in turn")] = None,
    truncation: Annotated[
        float, typer.Option(min=0.0, help="multiplies latents: below 1, safer and less varied")
    ] = 1.0,
    shards: Annotated[
        bool | None,
        typer.Option(help="WebDataset tars, written in parallel over Ray; default: for more than 10,000 images"),
    ] = None,
    shard_images: Annotated[int, typer.Option(min=1, help="images a tar")] = 1024,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Makes images with a released generator: one grid, a folder with 00000.png ... and labels.csv, or many as tars.

    Tars and a manifest.json come of --shards; start the same command again after any stop: it continues.

    Example: ganline generate mnist@champion -n 80 --seed 1 --out digits.png
    """

    def act(console: Console) -> None:
        place = existing(storage)
        with working(console, None, "generate"), console.progress():
            from flows.generate import generate_images

            made = generate_images(place, reference, n, seed, out, label, truncation, shards, shard_images)
        console.result(made, [f"{made['images']} images of {made['model']} version {made['version']}: {made['out']}"])

    run_command(act, as_json, resumable=n > MOST_FILES if shards is None else shards)


def evaluate(
    reference: Annotated[str, typer.Argument(help="a run's name, MODEL, MODEL@ALIAS or MODEL@VERSION")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="evaluation.key=value, instead of its recipe's")
    ] = None,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Measures a run's generator, or a released one, against the images held out from its dataset.

    Example: ganline evaluate mnist@champion --set evaluation.images=5000
    """

    def act(console: Console) -> None:
        place = existing(storage)
        with working(console, None, "evaluate"), console.progress():
            from flows import stages
            from flows.references import find_generator

            subject = find_generator(place, reference)
            config = with_evaluation(subject.config, sets)
            found = stages.evaluate(place, config, subject.dataset, subject.generator)
        values = {"reference": reference, "metrics": found.metrics, "problem": found.problem}
        if found.report:
            values |= {"figures": {figure.name: figure.value for figure in found.report.figures}}
        console.result(values, summary.figure_lines(found))

    run_command(act, as_json)


def release(
    run: Annotated[str, typer.Argument(help="a finished run's name")],
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Registers a finished run's generator and has the gate judge it, as `ganline run` does at its end.

    Example: ganline release mnist-0d5fba6d1e2f
    """

    def act(console: Console) -> None:
        place = existing(storage)
        with working(console, None, "release"), console.progress():
            from flows import stages
            from flows.references import finished_run

            config, dataset, training = finished_run(place, run)
            generator, _ = stages.candidate(place, config, dataset, training)
            found = stages.evaluate(place, config, dataset, generator)
            released = stages.release(place, config, dataset, training, found)
        values = {"metrics": found.metrics, "release": summary.release_values(released)}
        console.result(values, [*summary.figure_lines(found), summary.release_line(released)])

    run_command(act, as_json)


def promote(
    model: Annotated[str, typer.Argument(help="the model's name")],
    version: Annotated[int, typer.Option("--version", min=1, help="the version to make the champion")],
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Makes a version the champion by hand, whatever the gate said. Example: ganline promote mnist --version 2"""
    _move(lambda client: _releases().promote_version(client, model, version), "promote", storage, as_json)


def rollback(
    model: Annotated[str, typer.Argument(help="the model's name")],
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Makes the previous champion the champion again; twice is its opposite. Example: ganline rollback mnist"""
    _move(lambda client: _releases().rollback(client, model), "rollback", storage, as_json)


def _move(change, command: str, storage: str | None, as_json: bool) -> None:
    def act(console: Console) -> None:
        with working(console, None, command), console.progress():
            from pipeline.registry.server import client

            moved = change(client(existing(storage), create=False))
        values = {"model": moved.model, "version": moved.version, "alias": moved.alias, "reason": moved.reason}
        console.result(values, [f"{moved.model}@{moved.alias or CHAMPION} is version {moved.version}: {moved.reason}"])

    run_command(act, as_json)


def _releases():
    from pipeline.registry import releases

    return releases
