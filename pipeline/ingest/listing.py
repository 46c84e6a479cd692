"""The files of a folder tree, as they are found: one folder's entries at a time are in memory, no more."""

import errno
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter

from pyarrow import fs

from pipeline.ingest.item import Item, is_hidden

_LOCAL = fs.LocalFileSystem()
_REQUESTS = 16  # listings of an object store under way at a time


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
        try:
            # A fifth quicker than os.scandir. Broken links and what is deleted meanwhile are of no type.
            entries = sorted(_LOCAL.get_file_info(fs.FileSelector(where)), key=attrgetter("base_name"))
        except UnicodeDecodeError:
            yield Item(prefix + next(name for name in os.listdir(where) if not _is_utf8(name)), None, 0)
            continue  # which is not reached: no listing goes on after such a name
        except OSError as error:
            code = error.errno or errno.EIO
            raise OSError(code, os.strerror(code), where) from None
        for entry in entries:
            name, size = entry.base_name, entry.size
            if name[0] == "." or name == "__MACOSX":
                continue
            if size is not None:  # of files alone, and to ask for the type takes longer
                yield Item(prefix + name, None, size, f"{size}-{entry.mtime_ns}")
            elif entry.type == fs.FileType.Directory:
                linked.append(prefix + name) if os.path.islink(entry.path) else below.append(prefix + name)
        real += reversed(below)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
