"""The pictures of a report, as PNG: plots, and a sheet of images."""

from collections.abc import Mapping

import numpy as np
from matplotlib.ticker import MaxNLocator

from ganmodels.randomness import keyed_seed
from pipeline.pages.plots import BLUE, PLAIN, YELLOW, new_figure, plot_png, short
from pipeline.pages.sheets import sheet
from pipeline.shards.manifest import DatasetRef
from pipeline.shards.order import permutation
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage

SHEET = 64  # images on a contact sheet
_SHEET_SHARDS = 8  # that they are taken from: images lie in shards by a hash, so a few show all
_CELL = 96  # pixels a side on the sheet
_NAMED = 40  # classes that get a bar with their name
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
    return sheet(images[np.argsort(labels, kind="stable")], min(8, len(images)), _CELL)


def class_plot(classes: Mapping[str, tuple[int, int]]) -> bytes:
    """Images by class and split; many classes as one line from the largest to the smallest."""
    train = np.array([counts[0] for counts in classes.values()])
    held_out = np.array([counts[1] for counts in classes.values()])
    if len(classes) > _NAMED:
        figure, axes = new_figure(2.8)
        axes.plot(np.arange(1, len(classes) + 1), np.sort(train + held_out)[::-1], color=BLUE)
        axes.set_xlabel("classes, the largest first")
        axes.set_ylabel("images")
        axes.set_ylim(bottom=0)
        return plot_png(figure)
    figure, axes = new_figure(0.9 + 0.26 * len(classes))
    places = np.arange(len(classes))
    axes.barh(places, train, color=BLUE, label="train")
    axes.barh(places, held_out, left=train, color=YELLOW, label="held out")
    axes.set_yticks(places, [short(name or "no class") for name in classes])
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    return plot_png(figure)


def size_plot(widths: Mapping[int, int], heights: Mapping[int, int]) -> bytes:
    """Histograms of both sides, over bins whose edges grow by a constant factor."""
    figure, axes = new_figure(2.8)
    low, high = min(*widths, *heights), max(*widths, *heights)
    edges = np.geomspace(low * 0.9, high * 1.1, _BINS + 1)
    for name, counts, colour in (("width", widths, BLUE), ("height", heights, YELLOW)):
        binned, _ = np.histogram(list(counts), edges, weights=list(counts.values()))
        axes.stairs(binned, edges, color=colour, label=name, linewidth=1.6)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set_xlabel("pixels")
    axes.set_ylabel("images")
    axes.legend(frameon=False)
    return plot_png(figure)


def aspect_plot(aspects: Mapping[int, int]) -> bytes:
    """A histogram of width to height, `aspects` as in Facts."""
    figure, axes = new_figure(2.4)
    ratios = np.exp2(np.array(list(aspects)) / 20)
    axes.bar(ratios, list(aspects.values()), width=0.04 * ratios, color=BLUE)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set_xlim(min(0.45, ratios.min() * 0.9), max(2.2, ratios.max() * 1.1))
    axes.set_xlabel("width / height")
    axes.set_ylabel("images")
    return plot_png(figure)
