"""Images of a released generator as files."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.options import MOST_FILES
from pipeline.errors import UserError
from pipeline.pictures import tile, to_png
from pipeline.progress import Progress, report
from pipeline.provenance import Provenance
from pipeline.redact import redact
from pipeline.registry.lookup import Found, load
from pipeline.storage import Storage

if TYPE_CHECKING:
    from pipeline.registry.generator import Generator

_CHUNK = 256
_GRID_COLUMNS = 8


@dataclass(frozen=True)
class _Asked:
    """`label` is a class's name where all images are of that one; else image `i` is of class `i % classes`."""

    generator: "Generator"
    found: Found
    n: int
    seed: int
    label: str | None
    truncation: float

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The first image's number and the images, some at a time, as they are made."""
        one = None if self.label is None else self.generator.class_names.index(self.label)
        for first in range(0, self.n, _CHUNK):
            count = min(_CHUNK, self.n - first)
            yield first, self.generator.sample(count, self.seed, one, self.truncation, first)
            report(Progress("generate", first + count, self.n))

    def label_of(self, index: int) -> str | None:
        names = self.generator.class_names
        return self.label or (names[index % len(names)] if names else None)

    @property
    def provenance(self) -> Provenance:
        return Provenance(self.found.model, self.found.version, self.seed, self.truncation)


def generate_images(
    storage: Storage,
    reference: str,
    n: int,
    seed: int,
    out: str,
    label: str | None,
    truncation: float,
    shards: bool | None = None,
    shard_images: int = 1024,
) -> dict[str, Any]:
    """Writes a grid (`out` ends in .png), a folder of `00000.png` ... and `labels.csv` (file, label), or tars.

    Tars if `shards` says so or, where it says nothing, for more images than a folder is good for.
    Raises UserError for an unknown release or class, or a place that can not be written.
    """
    if not math.isfinite(truncation):
        raise UserError(f"--truncation {truncation} is no finite number; see `ganline generate --help`")
    as_grid, many = split_grid(out)[1].lower().endswith(".png"), n > MOST_FILES
    if as_grid and shards:
        raise UserError(f"--out {out} is one picture; give a folder, local or s3://, for --shards")
    if as_grid and many:
        raise UserError(f"-n {n} is too many for one grid; give a folder as --out")
    generator = load(reference, storage)
    names = generator.class_names
    if label is not None and label not in names:
        known = f"its classes are {', '.join(names)}" if names else "it has none"
        raise UserError(f"{reference} has no class {label!r}: {known}")
    found = generator.found
    assert found is not None
    asked = _Asked(generator, found, n, seed, label, truncation)
    made: dict[str, Any] = {
        "model": found.model, "version": found.version, "images": n, "seed": seed, "out": redact(out),
    }  # fmt: skip
    try:
        if as_grid:
            _write_grid(asked, out)
        elif many if shards is None else shards:
            made["shards"] = _write_shards(asked, out, shard_images)
        else:
            _write_folder(asked, out)
    except OSError as error:
        raise UserError(f"cannot write {redact(out)}: {error.strerror or error}; give another --out") from None
    return made


def _write_grid(asked: _Asked, out: str) -> None:
    folder, name = split_grid(out)
    images = np.concatenate([images for _, images in asked.chunks()])
    classes = len(asked.generator.class_names)
    columns = classes if classes and asked.label is None and classes <= 20 else _GRID_COLUMNS
    text = asked.provenance.of_grid(asked.n, asked.label)
    Storage(folder).write(name, tile(images, min(columns, asked.n), text))


def _write_folder(asked: _Asked, out: str) -> None:
    sink, table = Storage(out), io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file", "label"])
    for first, images in asked.chunks():
        for i, image in enumerate(images, start=first):
            label = asked.label_of(i)
            sink.write(f"{i:05d}.png", to_png(image, asked.provenance.of_image(i, label)))
            rows.writerow([f"{i:05d}.png", label or ""])
    sink.write("labels.csv", table.getvalue().encode())


def _write_shards(asked: _Asked, out: str, shard_images: int) -> dict[str, int]:
    from pipeline.generation.on_ray import generate_shards
    from pipeline.generation.order import Order

    found = asked.found
    order = Order(
        found.model, found.version, found.weights_sha256, asked.n, shard_images, asked.seed, asked.label,
        asked.truncation,
    )  # fmt: skip
    done = generate_shards(Storage(out), order, asked.generator)
    return {"written": done.written, "kept": done.kept}


def split_grid(out: str) -> tuple[str, str]:
    """The folder and the name of a grid's file; a URI's query (an S3 endpoint, say) goes with the folder."""
    place, mark, query = out.partition("?") if "://" in out else (out, "", "")
    folder, slash, name = place.rpartition("/")
    return (folder or slash or ".") + mark + query, name
