"""Images of a released generator as files."""

import csv
import io
import math
from typing import Any

from pipeline.errors import UserError
from pipeline.pictures import tile, to_png
from pipeline.progress import Progress, report
from pipeline.redact import redact
from pipeline.registry.lookup import load
from pipeline.storage import Storage

_CHUNK = 256
_GRID_COLUMNS = 8
_GRID_LIMIT = 10_000


def generate_images(
    storage: Storage, reference: str, n: int, seed: int, out: str, label: str | None, truncation: float
) -> dict[str, Any]:
    """Writes a grid (`out` ends in .png) or a folder of `00000.png` ... and `labels.csv` (file, label).

    Raises UserError for an unknown release or class, or a place that can not be written.
    """
    if not math.isfinite(truncation):
        raise UserError(f"--truncation {truncation} is no finite number; see `ganline generate --help`")
    generator = load(reference, storage)
    names = generator.class_names
    if label is not None and label not in names:
        known = f"its classes are {', '.join(names)}" if names else "it has none"
        raise UserError(f"{reference} has no class {label!r}: {known}")
    as_grid = out.lower().endswith(".png")
    if as_grid and n > _GRID_LIMIT:
        raise UserError(f"-n {n} is too many for one grid; give a folder as --out")
    chosen = [names.index(label) if label is not None else i % len(names) for i in range(n)] if names else None

    try:
        folder, name = split_grid(out) if as_grid else (out, "")
        sink = Storage(folder)
        sheet = []
        for first in range(0, n, _CHUNK):
            count = min(_CHUNK, n - first)
            labels = chosen[first : first + count] if chosen else None
            pixels = generator.sample(count, seed, labels, truncation, first)
            if as_grid:
                sheet.append(pixels)
            else:
                for i, image in enumerate(pixels, start=first):
                    sink.write(f"{i:05d}.png", to_png(image))
            report(Progress("generate", first + count, n))
        if as_grid:
            import numpy as np

            columns = min(len(names), 20) if chosen and label is None and len(names) <= 20 else _GRID_COLUMNS
            sink.write(name, tile(np.concatenate(sheet), min(columns, n)))
        else:
            table = io.StringIO()
            rows = csv.writer(table, lineterminator="\n")
            rows.writerow(["file", "label"])
            rows.writerows([f"{i:05d}.png", names[chosen[i]] if chosen else ""] for i in range(n))
            sink.write("labels.csv", table.getvalue().encode())
    except OSError as error:
        raise UserError(f"cannot write {redact(out)}: {error.strerror or error}; give another --out") from None
    assert generator.found is not None
    return {
        "model": generator.found.model, "version": generator.found.version, "images": n,
        "seed": seed, "out": redact(out),
    }  # fmt: skip


def split_grid(out: str) -> tuple[str, str]:
    """The folder and the name of a grid's file."""
    folder, slash, name = out.rpartition("/")
    return folder or slash or ".", name
