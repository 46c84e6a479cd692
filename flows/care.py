"""Commands that look after data and the machine."""

from pathlib import Path
from typing import Annotated

import typer

from flows import summary
from flows.command import EXIT_FAILED, run_command, working
from flows.console import Console
from flows.options import Json, StorageOption, existing


def add_to(app: typer.Typer) -> None:
    for command in (verify, forget, doctor):
        app.command()(command)


def verify(
    dataset: Annotated[str, typer.Argument(help="NAME, or NAME@DIGEST for a version before the latest")],
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Checks every byte of a dataset version; names shard, offset and key of what is wrong.

    Exit code 1 if anything is. Example: ganline verify mnist
    """
    sound = True

    def act(console: Console) -> None:
        nonlocal sound
        from dataclasses import asdict

        from pipeline.shards.verify import resolve_dataset, verify_dataset

        place = existing(storage)
        found = resolve_dataset(place, dataset)
        with console.progress():
            checked = verify_dataset(place, found)
        sound = checked.ok
        console.result({"ok": sound, **asdict(checked)}, summary.verification_lines(checked))

    run_command(act, as_json)
    if not sound:
        raise typer.Exit(EXIT_FAILED)


def forget(
    name: Annotated[str, typer.Argument(help="the dataset")],
    keys: Annotated[list[str] | None, typer.Argument(help="images, by the key that sources.parquet has")] = None,
    file: Annotated[Path | None, typer.Option("--from", help="a text file with more keys, one a line")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do it; without this it says what it would do")] = False,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Removes images for good, from every version of a dataset, and lists the releases trained on them.

    Their shards and versions are written again without them, under new digests, and the old deleted, with the pages on
    those releases, which show training images; later ingests leave them out. Start the same command again after any
    stop: it finishes. No ingest may run meanwhile. Exit code 1 if a page in MLflow could not be deleted.

    Example: ganline forget faces 0f3a...c2 --yes
    """

    whole = True

    def act(console: Console) -> None:
        nonlocal whole
        place = existing(storage)
        with working(console, place if yes else None, "forget"), console.progress():
            from flows.forgetting import forget_images, read_keys

            outcome = forget_images(place, name, read_keys(keys or [], file), really=yes)
        whole = not outcome.pages_left
        console.result(summary.forgetting_values(outcome), summary.forgetting_lines(outcome))

    run_command(act, as_json, resumable=yes)
    if not whole:
        raise typer.Exit(EXIT_FAILED)


def doctor(storage: StorageOption = None, as_json: Json = False) -> None:
    """Looks at this machine and its environment, and says what is amiss and what to do.

    Exit code 1 if anything is. Example: ganline doctor
    """
    well = True

    def act(console: Console) -> None:
        nonlocal well
        from flows.doctor import check_line, check_values, diagnose

        checks = diagnose(storage)
        well = all(check.ok for check in checks)
        console.result(check_values(checks), [check_line(check) for check in checks])

    run_command(act, as_json)
    if not well:
        raise typer.Exit(EXIT_FAILED)
