"""Many files read one after the other, and one file held open for many items."""

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.place import Place

_REQUESTS = 16  # to an object store, under way at a time

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def ahead(work: Callable[[_In], _Out], inputs: Iterable[_In]) -> Iterator[_Out]:
    """`work` of each input, in order, with several begun before they are asked for."""
    pool, begun = ThreadPoolExecutor(_REQUESTS), deque[Future[_Out]]()
    try:
        for value in inputs:
            begun.append(pool.submit(work, value))
            if len(begun) >= 2 * _REQUESTS:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_file(place: Place, path: str) -> bytes | InvalidImage:
    """A whole file, or that it is gone, forbidden or too large; other errors of the disk stay OSErrors."""
    try:
        return place.read(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            return InvalidImage("unreadable", error.strerror or "cannot be read")
        if error.errno == errno.EFBIG:
            return InvalidImage("too_large", str(error.strerror))
        raise


class Held(Generic[_Out]):
    """What was opened last, for as long as the same file, unchanged, is asked for."""

    def __init__(self, place: Place, opener: Callable[[str], _Out]):
        self._place, self._opener = place, opener
        self._held: tuple[tuple[str, str], _Out] | None = None

    def get(self, path: str) -> _Out:
        key = (path, self._place.stamp(path))
        if self._held is None or self._held[0] != key:
            self._held = None  # lets go of the one before the next is opened
            self._held = key, self._opener(path)
        return self._held[1]
