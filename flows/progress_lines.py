"""Progress as lines of text, for logs and for whatever is no terminal."""

import time
from collections.abc import Callable

from pipeline.progress import Progress

_SHOWN = ("images_per_second", "loss_g", "loss_d")


class Lines:
    """Says a line when a stage begins, when it ends, and every so many seconds between."""

    def __init__(self, say: Callable[[str], None], seconds: float):
        self._say, self._seconds = say, seconds
        self._begun: dict[str, tuple[float, int]] = {}
        self._told: dict[str, tuple[float, int]] = {}

    def note(self, line: str) -> None:
        self._say(line)

    def report(self, progress: Progress) -> None:
        now, done = time.monotonic(), min(progress.done, progress.total or progress.done)
        if done < self._told.get(progress.stage, (0.0, 0))[1]:  # it begins again, for another generator say
            del self._told[progress.stage], self._begun[progress.stage]
        begun, first = self._begun.setdefault(progress.stage, (now, done))
        told, told_done = self._told.get(progress.stage, (-self._seconds, -1))
        ended = done == progress.total and told_done != done
        if done == told_done or (now - told < self._seconds and not ended):
            return
        self._told[progress.stage] = now, done
        of = f" of {progress.total:,}" if progress.total is not None else ""
        line = f"{progress.stage}: {done:,}{of} images"
        if progress.total and first < done < progress.total:
            rate = progress.figures.get("images_per_second") or (done - first) / (now - begun)
            left = (progress.total - done) / rate
            line += f", {int(left) // 60}:{int(left) % 60:02d} left"
        figures = figures_of(progress)
        self._say(f"{line}, {figures}" if figures else line)


def figures_of(progress: Progress) -> str:
    figures = {name: progress.figures[name] for name in _SHOWN if name in progress.figures}
    rate = figures.pop("images_per_second", None)
    parts = [f"{rate:,.0f} images/s"] if rate else []
    return ", ".join(parts + [f"{name} {value:.2f}" for name, value in figures.items()])
