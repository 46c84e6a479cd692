"""Telemetry on an object store, which can not append: small objects, the last of which is written anew for each point.

`telemetry/<start>-<number>-<images>.jsonl`: `start` counts the starts of the run, and `number` the segments of one.
No point in the segments before is past `images`: by that a resume knows which it has to look into. A start begins a
segment of its own, by which a reader notices that what came before may have been cut.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest

from pipeline.patience import Patience
from pipeline.storage import Storage
from pipeline.training.spool.lines import READ_AT_ONCE, images_of, standing, whole_lines

MOST_BYTES = 256 << 10  # in a segment
_ONCE = Patience(attempts=1)  # who writes tries again by itself
_NAME = re.compile(r".*/(\d+)-(\d+)-(\d+)\.jsonl$")


@dataclass(frozen=True)
class Segment:
    """`start` is 0 for the one file in which earlier versions kept all points."""

    path: str
    size: int
    start: int
    number: int
    images: int


def segments(storage: Storage, whole_file: str, folder: str) -> list[Segment]:
    """In the order in which they were written; `whole_file` is what earlier versions wrote, if it is there."""
    found = []
    with suppress(FileNotFoundError):
        found.append(Segment(whole_file, storage.size(whole_file), 0, 0, 0))
    for entry in storage.list(folder):
        if name := _NAME.match(entry.path):
            found.append(Segment(entry.path, entry.size, *map(int, name.groups())))
    return sorted(found, key=lambda segment: (segment.start, segment.number))


class SegmentWriter:
    """One process a run holds it."""

    pause = 1.0  # seconds between appends; meanwhile points gather

    def __init__(self, storage: Storage, whole_file: str, folder: str):
        self._storage, self._whole_file, self._folder = storage, whole_file, folder
        self._start = self._number = self._images = 0
        self._path, self._data = "", b""

    def cut(self, resume_images: int) -> None:
        """Drops points past `resume_images`. Raises OSError where it got stuck; it can be begun again."""
        found = segments(self._storage, self._whole_file, self._folder)
        for segment, after in zip_longest(found, found[1:]):
            if after is None or after.images > resume_images:
                self._cut(segment.path, resume_images)
        self._start = max((segment.start for segment in found), default=0) + 1
        self._images = resume_images
        self._begin()
        self._storage.write(self._path, b"", _ONCE)

    def append(self, lines: Sequence[bytes]) -> None:
        """After `cut`. Raises OSError if they may not all be there; then the next `append` must begin with them."""
        data = b"".join(lines)
        if self._data and len(self._data) + len(data) > MOST_BYTES:
            self._begin()
        self._storage.write(self._path, self._data + data, _ONCE)
        self._data += data
        self._images = max(self._images, *(images_of(line) or 0 for line in lines))

    def close(self) -> None:
        """Nothing is open."""

    def _begin(self) -> None:
        self._number, self._data = self._number + 1, b""
        self._path = f"{self._folder}/{self._start:06d}-{self._number:06d}-{self._images:012d}.jsonl"

    def _cut(self, path: str, resume_images: int) -> None:
        before = self._storage.read(path)
        kept = b"".join(standing(before.splitlines(keepends=True), resume_images))
        if kept != before:
            self._storage.write(path, kept, _ONCE)


class SegmentReader:
    """Reads on from where it was; of what it has read it asks no more than the size."""

    def __init__(self, storage: Storage, whole_file: str, folder: str):
        self._storage, self._whole_file, self._folder = storage, whole_file, folder
        self._newest = 0  # start of the run that has written
        self._at, self._offset = (0, 0), 0

    def read(self) -> bytes:
        """The next whole lines, `READ_AT_ONCE` at most; empty if there are none now. After a cut, from the first."""
        found = segments(self._storage, self._whole_file, self._folder)
        newest = found[-1].start if found else 0
        if newest != self._newest:
            self._newest, self._at, self._offset = newest, (0, 0), 0
        for segment in found:
            place = segment.start, segment.number
            if place < self._at:
                continue
            if place > self._at:
                self._at, self._offset = place, 0
            if segment.size > self._offset:
                lines = self._lines(segment)
                self._offset += len(lines)
                if lines:
                    return lines
        return b""

    def _lines(self, segment: Segment) -> bytes:
        size = min(segment.size - self._offset, READ_AT_ONCE)
        try:
            return whole_lines(self._storage.read_range(segment.path, self._offset, size))
        except (FileNotFoundError, ValueError):  # it is being cut; the start that does so tells of itself soon
            return b""

    def close(self) -> None:
        """Nothing is open."""
