"""A run's figures over the images that it has seen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipeline.pages.plots import BLUE, PLAIN, YELLOW, new_figure, plot_png, short

LOSSES = ("loss_g", "loss_d")
MEASURED = ("frechet",)  # as training goes, where it is measured
_COLOURS = (BLUE, YELLOW)
_DRAWN = 2000  # points of a curve: more than there are pixels

Points = Sequence[Mapping[str, Any]]


def curve(points: Points, keys: Sequence[str]) -> bytes | None:
    """Those of the figures that telemetry points `{"images", "metrics"}` have, as PNG; None if they have none."""
    drawn = draw(points, keys)
    return plot_png(drawn) if drawn else None


def draw(points: Points, keys: Sequence[str]) -> Figure | None:
    """A curve for each, over thousands of images."""
    there = {key: found for key in keys if (found := series(points, key)) is not None}
    if not there:
        return None
    figure, axes = new_figure(2.4)
    for (key, (images, values)), colour in zip(there.items(), _COLOURS, strict=False):
        axes.plot(images / 1000, values, color=colour, label=short(key), linewidth=1.2, marker="." * (len(images) < 40))
    axes.yaxis.set_major_formatter(PLAIN)
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set_xlabel("thousand images seen")
    axes.legend(frameon=False)
    return figure


def series(points: Points, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """By images; of two for the same images the later, which a resumed run wrote."""
    found = {int(point["images"]): float(point["metrics"][key]) for point in points if key in point.get("metrics", {})}
    pairs = np.array([pair for pair in sorted(found.items()) if np.isfinite(pair[1])], np.float64)
    if not len(pairs):
        return None
    kept = pairs[np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _DRAWN)).round().astype(int))]
    return kept[:, 0], kept[:, 1]
