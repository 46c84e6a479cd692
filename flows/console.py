"""What a command shows: its result on standard output, progress on standard error, all chatter in a log file."""

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from flows.progress_lines import Lines, figures_of
from pipeline.errors import UserError
from pipeline.progress import Progress, watcher
from pipeline.redact import redact_within

_PLAIN_PERIOD_SECONDS = 10.0
_NEW_FILE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class Console:
    """Owns the real standard streams; `captured` sends file descriptors 1 and 2 to the log meanwhile."""

    def __init__(self, as_json: bool):
        self.as_json = as_json
        self.out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        self.err = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self.rich = RichConsole(file=self.err, highlight=False, soft_wrap=True)
        self.log_path: Path | None = None
        self.begun = False  # whether a stage has told of any work

    def say(self, line: str) -> None:
        """One line without secrets, whatever a message or a user's input holds."""
        self.rich.print(redact_within(" ".join(line.split())), markup=False)

    def result(self, values: dict[str, Any], lines: list[str]) -> None:
        """The one JSON object, or the lines for people."""
        text = json.dumps(_finite(values), allow_nan=False) if self.as_json else "\n".join(lines)
        print(text, file=self.out, flush=True)

    @contextmanager
    def captured(self, folder: Path | None, command: str) -> Iterator[None]:
        """Everything that this process and its children print goes to a log file in `folder`.

        Without a folder, for commands that change nothing, the log is kept only if the command fails.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{os.getpid()}.log"
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            self.log_path = folder / name
            self.say(f"log: {shown_path(self.log_path)}")
        else:
            self.log_path = Path(tempfile.gettempdir(), f"ganline-{name}")
        sys.stdout.flush()
        sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        log = os.open(self.log_path, _NEW_FILE, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        expected = False
        try:
            yield
            expected = True
        except UserError:
            expected = True  # the line that tells of it is all there is to tell
            raise
        finally:
            if expected and not folder:
                self.log_path.unlink()
                self.log_path = None
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Shows what stages report: bars on a terminal, else a line now and then."""
        shown = _Bars(self) if self.rich.is_terminal else _Lines(self)
        token = watcher.set(shown)
        try:
            with shown:
                yield
        finally:
            watcher.reset(token)


class _Bars:
    def __init__(self, console: Console):
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"),
            TimeRemainingColumn(), TextColumn("{task.fields[figures]}"), console=console.rich,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> None:
        self._bars.start()

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def note(self, line: str) -> None:
        self._console.say(line)

    def report(self, progress: Progress) -> None:
        self._console.begun = True
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(progress.stage, total=progress.total, figures="")
        done = min(progress.done, progress.total or progress.done)
        figures = figures_of(progress)
        self._bars.update(self._tasks[progress.stage], completed=done, total=progress.total, figures=figures)


class _Lines(Lines):
    def __init__(self, console: Console):
        super().__init__(console.say, _PLAIN_PERIOD_SECONDS)
        self._console = console

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...

    def report(self, progress: Progress) -> None:
        self._console.begun = True
        super().report(progress)


def _finite(value: Any) -> Any:
    """With null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown_path(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
