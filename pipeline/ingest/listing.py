"""The files of a folder tree, as they are found: one folder's entries at a time are in memory, no more."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pyarrow import fs

from pipeline.ingest.item import Item, is_hidden

_REQUESTS = 16  # listings of an object store under way at a time


def walk_local(root: str) -> Iterator[Item]:
    """Linked folders are followed after the real ones, and no folder is entered twice. Raises OSError."""
    real: list[str] = [""]
    linked: deque[str] = deque()
    seen: set[tuple[int, int]] = set()
    while real or linked:
        folder = real.pop() if real else linked.popleft()
        status = os.stat(os.path.join(root, folder))
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(root, folder)) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        below = []
        for entry in entries:
            if entry.name[0] == "." or entry.name == "__MACOSX":
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink() and not os.path.exists(entry.path):
                continue
            if entry.is_dir():
                linked.append(path) if entry.is_symlink() else below.append(path)
            elif entry.is_file():
                try:
                    status = entry.stat()
                except FileNotFoundError:  # deleted since the folder was listed
                    continue
                yield Item(path, None, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")
        real += reversed(below)


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
