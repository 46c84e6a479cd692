"""The files of a folder tree, as they are found: one folder's entries at a time are in memory, no more."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter
from typing import Any, NamedTuple

from pyarrow import fs

from pipeline.ingest.item import Item, is_hidden

_LOCAL = fs.LocalFileSystem()
_REQUESTS = 16  # listings of an object store under way at a time


class _Entry(NamedTuple):
    """As an Arrow FileInfo."""

    base_name: str
    path: str
    type: fs.FileType
    size: int | None = None  # of files alone
    mtime_ns: int | None = None


def walk_local(root: str) -> Iterator[Item]:
    """Linked folders are followed after the real ones, and no folder is entered twice. Raises OSError."""
    real: list[str] = [""]
    linked: deque[str] = deque()
    seen: set[tuple[int, int]] = set()
    while real or linked:
        folder = real.pop() if real else linked.popleft()
        where = os.path.join(root, folder)
        status = os.stat(where)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        below, prefix = [], f"{folder}/" if folder else ""
        for entry in _entries(where):
            name, size = entry.base_name, entry.size
            if name[0] == "." or name == "__MACOSX":
                continue
            if size is not None:  # to ask each for its type takes longer
                yield Item(prefix + name, None, size, f"{size}-{entry.mtime_ns}")
            elif entry.type == fs.FileType.Directory:
                linked.append(prefix + name) if os.path.islink(entry.path) else below.append(prefix + name)
        real += reversed(below)


def _entries(folder: str) -> list[Any]:
    """By name; broken links and what is deleted meanwhile are left out, or of no type."""
    by_name = attrgetter("base_name")
    try:
        return sorted(_LOCAL.get_file_info(fs.FileSelector(folder)), key=by_name)
    except (OSError, UnicodeError):
        # Arrow is a fifth quicker, but gives up at a name that is not UTF-8 and at a link into a forbidden folder.
        return sorted(_scanned(folder), key=by_name)


def _scanned(folder: str) -> Iterator[_Entry]:
    with os.scandir(folder) as scanned:
        for entry in scanned:
            try:
                if entry.is_symlink() and not os.path.exists(entry.path):
                    continue
                if entry.is_dir():
                    yield _Entry(entry.name, entry.path, fs.FileType.Directory)
                elif entry.is_file():
                    status = entry.stat()
                    yield _Entry(entry.name, entry.path, fs.FileType.File, status.st_size, status.st_mtime_ns)
            except FileNotFoundError:  # deleted since the folder was listed
                continue


def walk_remote(filesystem: fs.FileSystem, root: str) -> Iterator[Item]:
    """Folder by folder, several listings ahead. Raises OSError."""
    folders, running = deque([root]), deque[Future]()
    pool = ThreadPoolExecutor(_REQUESTS)
    try:
        while folders or running:
            while folders and len(running) < _REQUESTS:
                selector = fs.FileSelector(folders.popleft())
                running.append(pool.submit(filesystem.get_file_info, selector))
            for info in sorted(running.popleft().result(), key=lambda info: info.base_name):
                if is_hidden(info.base_name):
                    continue
                if info.type == fs.FileType.Directory:
                    folders.append(info.path)
                elif info.type == fs.FileType.File:
                    path = info.path[len(root) :].lstrip("/")
                    yield Item(path, None, info.size, f"{info.size}-{info.mtime_ns}")
    finally:
        pool.shutdown(cancel_futures=True)
