"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from pipeline.config import Config
from pipeline.storage import Storage, default_uri

Recipe = Annotated[str, typer.Argument(help="a YAML file or a preset's name (mnist, small)")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, on top of the recipe")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output, nothing else")]
StorageOption = Annotated[
    str | None, typer.Option("--storage", help="storage root; default: GANLINE_STORAGE, else .ganline here")
]
Reference = Annotated[str, typer.Argument(help="MODEL, MODEL@ALIAS or MODEL@VERSION")]
MOST_FILES = 10_000  # images in a folder, unless it is asked for; and in one grid at all
Restart = Annotated[bool, typer.Option("--restart", help="begin the run anew; its releases stay")]

Fork = Annotated[
    str | None,
    typer.Option("--fork", metavar="RUN[@STEP]", help="begin another run with this checkpoint of RUN, or its newest"),
]


def prepared(storage: str | None, config: Config) -> Storage:
    """The storage root, known to be writable: `--storage`, then the recipe's, then the environment's."""
    place = Storage(storage or config.storage or default_uri())
    place.prepare()
    return place


def existing(storage: str | None) -> Storage:
    """The storage root for commands that only look."""
    return Storage(storage or default_uri())
