"""The pictures of a report, as PNG: plots without any global state of matplotlib's, and a sheet of images."""

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from ganmodels.randomness import keyed_seed
from pipeline.pictures import tile
from pipeline.shards.manifest import DatasetRef
from pipeline.shards.order import permutation
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage

SHEET = 64  # images on a contact sheet
_SHEET_SHARDS = 8  # that they are taken from: images lie in shards by a hash, so a few show all
_CELL = 96  # pixels a side on the sheet
_NAMED = 40  # classes that get a bar with their name
_TRAIN, _HELD_OUT = "#2f6f9f", "#e0a030"
_BINS = 40


def contact_sheet(storage: Storage, dataset: DatasetRef) -> bytes | None:
    """Images of the training split, chosen by a keyed order, in the order of their classes; None if there is none."""
    reader = DatasetReader(storage, dataset, "train")
    chosen = permutation(len(reader.counts), keyed_seed("contact sheet"))[:_SHEET_SHARDS].tolist()
    # The first of each shard, then the second of each: small shards leave their place to others.
    orders = {shard: permutation(reader.counts[shard], keyed_seed("contact sheet", shard))[:SHEET] for shard in chosen}
    places = sorted((rank, shard, row) for shard, order in orders.items() for rank, row in enumerate(order.tolist()))[
        :SHEET
    ]
    if not places:
        return None
    _, shards, rows = (np.array(column, dtype=np.int64) for column in zip(*places, strict=True))
    images, labels = reader.read(shards, rows)
    cells = [_cell(image) for image in images[np.argsort(labels, kind="stable")]]
    return tile(np.stack(cells), columns=min(8, len(cells)))


def _cell(image: np.ndarray) -> np.ndarray:
    """uint8 `(h, w, c)` -> `(_CELL, _CELL, 3)` with a white edge; small pixels stay sharp."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    side = _CELL - 2
    small = max(picture.size) < side
    picture = picture.resize((side, side), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    return np.pad(np.asarray(picture), ((1, 1), (1, 1), (0, 0)), constant_values=255)


def class_plot(classes: Mapping[str, tuple[int, int]]) -> bytes:
    """Images by class and split; many classes as one line from the largest to the smallest."""
    train = np.array([counts[0] for counts in classes.values()])
    held_out = np.array([counts[1] for counts in classes.values()])
    if len(classes) > _NAMED:
        figure, axes = _figure(2.8)
        axes.plot(np.arange(1, len(classes) + 1), np.sort(train + held_out)[::-1], color=_TRAIN)
        axes.set_xlabel("classes, the largest first")
        axes.set_ylabel("images")
        axes.set_ylim(bottom=0)
        return _png(figure)
    figure, axes = _figure(0.9 + 0.26 * len(classes))
    places = np.arange(len(classes))
    axes.barh(places, train, color=_TRAIN, label="train")
    axes.barh(places, held_out, left=train, color=_HELD_OUT, label="held out")
    axes.set_yticks(places, [_short(name or "no class") for name in classes])
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    return _png(figure)


def size_plot(widths: Mapping[int, int], heights: Mapping[int, int]) -> bytes:
    """Histograms of both sides, over bins whose edges grow by a constant factor."""
    figure, axes = _figure(2.8)
    low, high = min(*widths, *heights), max(*widths, *heights)
    edges = np.geomspace(low * 0.9, high * 1.1, _BINS + 1)
    for name, counts, colour in (("width", widths, _TRAIN), ("height", heights, _HELD_OUT)):
        binned, _ = np.histogram(list(counts), edges, weights=list(counts.values()))
        axes.stairs(binned, edges, color=colour, label=name, linewidth=1.6)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.set_xlabel("pixels")
    axes.set_ylabel("images")
    axes.legend(frameon=False)
    return _png(figure)


def aspect_plot(aspects: Mapping[int, int]) -> bytes:
    """A histogram of width to height, `aspects` as in Facts."""
    figure, axes = _figure(2.4)
    ratios = np.exp2(np.array(list(aspects)) / 20)
    axes.bar(ratios, list(aspects.values()), width=0.04 * ratios, color=_TRAIN)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.set_xlim(min(0.45, ratios.min() * 0.9), max(2.2, ratios.max() * 1.1))
    axes.set_xlabel("width / height")
    axes.set_ylabel("images")
    return _png(figure)


_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return figure, axes


def _short(name: str) -> str:
    # A dollar sign would begin mathematics.
    return (name if len(name) <= 24 else name[:23] + "\N{HORIZONTAL ELLIPSIS}").replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
