"""A folder tree of image files."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.ingest.invalid import InvalidImage, read_each
from pipeline.ingest.layout import File, Item, arrange, is_hidden


class FolderSource:
    """Every regular file below `path` that is not hidden."""

    def __init__(self, path: str):
        self.path = path
        self._items: list[Item] | None = None

    def __reduce__(self):
        return FolderSource, (self.path,)

    def items(self) -> list[Item]:
        if self._items is None:
            try:
                files = _walk(self.path)
            except OSError as error:
                raise UserError(f"cannot list {error.filename}: {error.strerror}; make it readable") from None
            self._items = arrange(files, self.path)
        return self._items

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        return read_each(self._read, paths)

    def _read(self, path: str) -> bytes:
        """Raises InvalidImage if the file has gone or may not be read; other disk errors stay OSErrors."""
        try:
            return Path(self.path, path).read_bytes()
        except (FileNotFoundError, PermissionError) as error:
            raise InvalidImage("unreadable", error.strerror or "cannot be read") from None


def _walk(root: str) -> dict[str, File]:
    """Files by path. Linked folders are followed after the real ones, and no folder is entered twice."""
    files: dict[str, File] = {}
    real: list[str] = [""]
    linked: list[str] = []
    seen: set[tuple[int, int]] = set()
    while real or linked:
        folder = real.pop() if real else linked.pop(0)
        status = os.stat(os.path.join(root, folder))
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{folder}/{entry.name}" if folder else entry.name
                leads_nowhere = entry.is_symlink() and not os.path.exists(entry.path)
                if is_hidden(entry.name) or leads_nowhere:
                    continue
                if entry.is_dir():
                    (linked if entry.is_symlink() else real).append(path)
                elif entry.is_file():
                    status = entry.stat()
                    files[path] = File(status.st_size, f"{status.st_size}-{status.st_mtime_ns}")
    return files
