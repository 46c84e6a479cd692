"""A CSV or JSONL list of image files, with labels.

Paths are relative to the list, absolute, or URIs. CSV has a header line; the first of the names in `_PATHS`
that is there holds the path, `label` the label.
"""

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any
from urllib.parse import unquote

from pipeline.errors import UserError
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.item import Item
from pipeline.ingest.layout import arrange
from pipeline.ingest.located import Located
from pipeline.ingest.options import AUTO, Options
from pipeline.ingest.place import Place
from pipeline.ingest.reading import ahead, read_file

_PATHS = ("path", "file", "file_name", "filename", "uri", "url", "image")
_URI = re.compile(r"(\w+)://([^/]*)/(.*)", re.DOTALL)
_ENDS = (".csv", ".tsv", ".jsonl", ".ndjson")


class ListSource(Located):
    """The listed files, in the list's order; a file that is not there is an InvalidImage when it is read."""

    def __init__(self, uri: str, options: Options = AUTO):
        super().__init__(uri, options)
        self._root = cache(self._connect)

    def items(self) -> Iterator[Item]:
        return arrange(self._list(), str(self.place), self.options)

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        found = (self._find(path) for path in paths)
        if all(self._find(path)[0].is_local for path in paths):
            return (read_file(*each) for each in found)
        return ahead(lambda each: read_file(*each), found)

    def _list(self) -> Iterator[Item]:
        rows = self._rows()
        while batch := list(islice(rows, 1000)):
            found = [self._find(path) for path, _ in batch]
            remote = not all(place.is_local for place, _ in found)
            stamps = (ahead if remote else map)(lambda each: each[0].stamp(each[1]), found)
            for (path, label), stamp in zip(batch, stamps, strict=True):
                yield Item(path, label, int(stamp.partition("-")[0] or 0), stamp or "missing")

    def _rows(self) -> Iterator[tuple[str, str | None]]:
        """Paths and labels."""
        try:
            with self.place.open() as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
                first = text.readline()
                text.seek(0)
                read = _read_jsonl if first.lstrip().startswith("{") else _read_csv
                path_name = label_name = None
                for line, row in read(text, first):
                    if path_name is None or path_name not in row:
                        path_name = self._path_column(row)
                    label_name = self.options.label_column or "label"
                    path, label = row[path_name], row.get(label_name)
                    if not isinstance(path, str) or not path:
                        raise UserError(f"line {line} of {self.place} has no {path_name}; add it, or take the line out")
                    if label is not None and not isinstance(label, str | int):
                        raise UserError(f"line {line} of {self.place}: {label_name} is no text or number; write one")
                    yield path, None if label in (None, "") else str(label)
        except OSError as error:
            raise self.place.refuse(error) from None
        except (ValueError, csv.Error) as error:
            raise UserError(f"{self.place} is a broken list: {error}; write it as UTF-8 CSV or JSONL") from None

    def _path_column(self, row: dict[str, Any]) -> str:
        names = (self.options.image_column,) if self.options.image_column else _PATHS
        name = next((name for name in names if name in row), None)
        if name is None:
            raise UserError(
                f"{self.place} has no column {' or '.join(names)}, only {', '.join(map(str, row))};"
                " name the one with the paths as data.image_column"
            )
        return name

    def _find(self, path: str) -> tuple[Place, str]:
        """Where a listed file lies."""
        if uri := _URI.fullmatch(path):
            root = self._root(f"{uri[1]}://{uri[2]}/")
            return root, f"{root.path}/{unquote(uri[3])}"
        if path.startswith("/"):
            return self._root("/"), path
        return self.place, posixpath.normpath(self.place.join(path))

    def _connect(self, root: str) -> Place:
        # A list says s3://bucket/key: the endpoint is that of the list, where it lies on such a store itself.
        mark, query = self.place.uri.partition("?")[1:]
        same = "://" in root and self.place.uri.startswith(root.partition("://")[0] + "://")
        return Place(f"{root}{mark}{query}" if same else root)


def _read_csv(text: io.TextIOWrapper, first: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(text, delimiter=_delimiter(first), strict=True)
    for row in rows:
        row.pop(None, None)  # cells beyond the header
        yield rows.line_num, row


def _read_jsonl(text: io.TextIOWrapper, _: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield number, row


def _delimiter(header: str) -> str:
    return max("\t;,", key=header.count)


def recognise(place: Place, options: Options) -> ListSource | None:
    """A text that begins with a JSON object or a header that names a column of paths, or is called a list."""
    if place.is_folder:
        return None
    called = place.names[0].lower().endswith(_ENDS)
    first = place.start.decode("utf-8-sig", "replace").partition("\n")[0].strip()
    columns = [name.strip().strip('"') for name in first.split(_delimiter(first))]
    wanted = {*_PATHS, options.image_column}
    found = called or first.startswith("{") or any(name in wanted for name in columns)
    return ListSource(place.uri, options) if found else None
