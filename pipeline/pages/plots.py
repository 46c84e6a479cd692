"""Plots as PNG, without any global state of matplotlib's."""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

BLUE, YELLOW = "#2f6f9f", "#e0a030"
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def new_figure(height: float) -> tuple[Figure, Axes]:
    """So many inches high, with one pair of axes; whole numbers on the upright one."""
    figure = Figure(figsize=(5.2, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return figure, axes


def short(name: str) -> str:
    """A name from outside, as a label."""
    # A dollar sign would begin mathematics.
    return (name if len(name) <= 24 else name[:23] + "\N{HORIZONTAL ELLIPSIS}").replace("$", r"\$")


def plot_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
