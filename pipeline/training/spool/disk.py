"""Telemetry on local disk: one file, appended to.

Each start of a run makes the file anew from the points that stand, under the same name. By that a reader notices
that it was cut, and a writer that was given up for dead, and comes back, writes to a file that nobody sees.
"""

import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path

from pipeline.training.spool.lines import READ_AT_ONCE, standing, whole_lines


class DiskWriter:
    """One process a run holds it."""

    pause = 0.0  # seconds between appends

    def __init__(self, path: Path):
        self._path = path
        self._file: FileIO | None = None
        self._size = 0  # up to where the lines are whole

    def cut(self, resume_images: int) -> None:
        """Drops points past `resume_images`, and what is no point. Raises OSError, with nothing changed."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "xb") as new:
                with suppress(FileNotFoundError), open(self._path, "rb") as old:
                    new.writelines(standing(old, resume_images))
                new.flush()
                os.fsync(new.fileno())
            file = FileIO(temporary, "ab")
            os.replace(temporary, self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._file, self._size = file, os.fstat(file.fileno()).st_size

    def append(self, lines: Sequence[bytes]) -> None:
        """After `cut`. Raises OSError if not all is there now; none of it is, once the next `append` has begun."""
        assert self._file
        data = memoryview(b"".join(lines))
        end = self._size + len(data)
        os.ftruncate(self._file.fileno(), self._size)  # what a full disk cut short
        while data:
            data = data[self._file.write(data) :]
        os.fsync(self._file.fileno())
        self._size = end

    def close(self) -> None:
        if self._file:
            self._file.close()


class DiskReader:
    """Reads on from where it was."""

    def __init__(self, path: Path):
        self._path = path
        self._file: FileIO | None = None  # kept open, so that no other file can have its number
        self._offset = 0

    def read(self) -> bytes:
        """The next whole lines, `READ_AT_ONCE` at most; empty if there are none now. After a cut, from the first."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return b""
        if self._file is None or not os.path.samestat(os.fstat(self._file.fileno()), there):
            self.close()
            self._file, self._offset = FileIO(self._path, "rb"), 0
        elif there.st_size < self._offset:
            self._offset = 0
        lines = whole_lines(os.pread(self._file.fileno(), READ_AT_ONCE, self._offset))
        self._offset += len(lines)
        return lines

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
