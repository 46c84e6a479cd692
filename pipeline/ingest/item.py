"""What a source lists."""

from typing import NamedTuple

MAX_BYTES = 1 << 30  # a larger file is refused unread: it is no image, or one of more pixels than are accepted


class Item(NamedTuple):
    path: str  # names the image within its source, with forward slashes; `file#place` inside a table or an archive
    label: str | None
    size: int  # bytes; of a table's row the mean of its row group
    stamp: str = ""  # changes when the bytes do: a file with the stamp it had need not be opened again


def is_hidden(path: str) -> bool:
    """Dot files, what lies in dot folders, and macOS's resource forks; `..` counts as hidden too."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def clean(name: str) -> str:
    """Without `./` and a leading `/`, which say nothing about where a member belongs."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
