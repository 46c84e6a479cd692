"""A root that sources lie below, by path, by URI, and on a file system that is not local disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyarrow import fs

from pipeline.ingest import place
from pipeline.location import connect


@dataclass(frozen=True)
class Root:
    folder: Path  # where a test writes
    uri: str  # what a source is given: the same place

    def __truediv__(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def at(self, name: str) -> str:
        return f"{self.uri}/{name}".rstrip("/")


@pytest.fixture(params=["path", "file", "store"])
def root(request, tmp_path, monkeypatch) -> Iterator[Root]:
    """`store` is pyarrow's SubTreeFileSystem: files are had through pyarrow alone, by range, as on S3."""
    folder = tmp_path / "root"
    folder.mkdir()
    if request.param == "path":
        yield Root(folder, str(folder))
    elif request.param == "file":
        yield Root(folder, folder.as_uri())
    else:
        filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())

        def connected(uri: str, use: str) -> tuple[fs.FileSystem, str]:
            scheme, _, path = uri.partition("://")
            return (filesystem, path.rstrip("/")) if scheme == "store" else connect(uri, use)

        monkeypatch.setattr(place, "connect", connected)
        yield Root(folder, "store://root")
