"""From file names to items: what is skipped, and which class a file is of."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import UserError


@dataclass(frozen=True)
class Item:
    path: str  # relative to the source, with forward slashes
    label: str | None
    size: int  # bytes
    stamp: str = ""  # changes when the bytes do: a file with the stamp it had need not be opened again


@dataclass(frozen=True)
class File:
    """What a listing tells of a file."""

    size: int
    stamp: str


def is_hidden(path: str) -> bool:
    """Dot files, what lies in dot folders, and macOS's resource forks; `..` counts as hidden too."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def arrange(files: Mapping[str, File], where: str) -> list[Item]:
    """Items of `files` by path, sorted by path; raises UserError if there are none.

    A file's class is its first folder, below folders that wrap everything else. If any file lies beside
    the classes, or there is only one class, nothing has a label.
    """
    if not files:
        raise UserError(f"no files in {where}; put images in it, each class in a sub-folder")
    for path in files:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UserError(f"file name {path!r} in {where} is not UTF-8; rename the file") from None
    parts = {path: path.split("/") for path in sorted(files)}
    depth = 0
    while _all_deeper(parts, depth + 1) and len({each[depth] for each in parts.values()}) == 1:
        depth += 1
    labelled = _all_deeper(parts, depth) and len({each[depth] for each in parts.values()}) > 1
    return [
        Item(path, each[depth] if labelled else None, files[path].size, files[path].stamp)
        for path, each in parts.items()
    ]


def _all_deeper(parts: Mapping[str, list[str]], depth: int) -> bool:
    """Whether every file lies in a folder at `depth`."""
    return all(len(each) > depth + 1 for each in parts.values())
