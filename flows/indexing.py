"""`ganline index`: tars made elsewhere become a dataset."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.command import run_command, working
from flows.console import Console
from flows.options import Json, StorageOption, prepared
from flows.summary import contents_line, contents_values
from pipeline.recipe import parse_config

if TYPE_CHECKING:
    from pipeline.shards.foreign.on_ray import Indexed


def add_to(app: typer.Typer) -> None:
    app.command()(index)


def index(
    name: Annotated[str, typer.Argument(help="the dataset's name")],
    tars: Annotated[
        list[str], typer.Argument(help="paths, globs, s3:// or gs:// URIs; braces as in {0000..0099} in quotes")
    ],
    resolution: Annotated[int | None, typer.Option(help="pixels a side that images are read at; default 64")] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3; default 3")] = None,
    image: Annotated[
        str | None, typer.Option(help="which of a sample's images, rgb.png say; default: its only one")
    ] = None,
    labels: Annotated[
        str, typer.Option(help="cls, a key of the .json, or none; auto: .cls, else label or class of the .json")
    ] = "auto",
    background: Annotated[Literal["white", "black"], typer.Option(help="what lies under transparent pixels")] = "white",
    held_out: Annotated[float, typer.Option(help="share of images that is never trained on")] = 0.05,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Makes WebDataset tars a dataset version where they lie: nothing is copied, each tar is read once.

    A recipe of this name then trains on them, with the same data.resolution and data.channels.

    Example: ganline index photos 'tars/photos-{0000..0099}.tar' --resolution 64
    """

    def act(console: Console) -> None:
        data: dict[str, Any] = {"source": tars[0], "resolution": resolution, "channels": channels}
        config = parse_config({"name": name, "data": {**data, "background": background, "held_out": held_out}}, "index")
        from pipeline.shards.foreign.find import find_tars

        find_tars(tars)  # what is not there is told before anything is written
        place = prepared(storage, config)
        with working(console, place, "index"), console.progress():
            from pipeline.shards.foreign.on_ray import index_tars

            indexed = index_tars(place, config.name, tars, config.data, image=image, labels=labels)
        console.result(index_values(indexed), [index_line(indexed)])

    run_command(act, as_json, resumable=True)


def index_values(indexed: "Indexed") -> dict[str, Any]:
    return contents_values(indexed, tars=indexed.tars, tars_read=indexed.tars_read)


def index_line(indexed: "Indexed") -> str:
    return contents_line(indexed, f", in {indexed.tars} tars, {indexed.tars_read} of them read now")
