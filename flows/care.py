"""Commands that look after data and the machine."""

from typing import Annotated

import typer

from flows import summary
from flows.command import EXIT_FAILED, run_command
from flows.console import Console
from flows.options import Json, StorageOption, existing


def add_to(app: typer.Typer) -> None:
    for command in (verify, doctor):
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
