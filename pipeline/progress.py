"""How a stage tells of its progress, without knowing who watches."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """`done` of `total` images of a stage (None: not known yet); `figures` are shown beside it, losses for instance."""

    stage: str
    done: int
    total: int | None
    figures: Mapping[str, float] = field(default_factory=dict)


class Watcher(Protocol):
    def report(self, progress: Progress) -> None: ...

    def note(self, line: str) -> None: ...


class _Nobody:
    def report(self, progress: Progress) -> None: ...

    def note(self, line: str) -> None: ...


_NOBODY = _Nobody()

# Set by whoever shows progress; a context variable, so that it need not travel through Prefect's parameters.
watcher: ContextVar[Watcher] = ContextVar("watcher", default=_NOBODY)


def report(progress: Progress) -> None:
    watcher.get().report(progress)


def note(line: str) -> None:
    """One line that is told once."""
    watcher.get().note(line)
