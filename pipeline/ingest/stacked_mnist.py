"""Stacked MNIST (Metz et al. 2017): three random digits as the red, green and blue of one image, so 1,000 modes.

The digits are the 5,000 of `mnist5k`. Which three an image has is a function of its number alone.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.item import Item
from pipeline.ingest.layout import arrange
from pipeline.ingest.mnist5k import digits
from pipeline.ingest.netpbm import netpbm, netpbm_size
from pipeline.ingest.options import AUTO, Options

NAME = "stacked_mnist"
IMAGES = 64_000


@dataclass(frozen=True)
class StackedMnist:
    """Items `00000` to `63999`, each a 28 x 28 PPM; the label is its mode, `000` to `999`: red, green, blue."""

    options: Options = AUTO

    def items(self) -> Iterator[Item]:
        return arrange(self._list(), NAME, self.options)

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        pixels, _ = digits()
        return (netpbm(np.ascontiguousarray(pixels[_three(int(path))].T.reshape(28, 28, 3))) for path in paths)

    def _list(self) -> Iterator[Item]:
        pixels, labels = digits()
        stamp, size = f"{zlib.crc32(pixels.tobytes()):08x}", netpbm_size(28, 28, 3)
        for number in range(IMAGES):
            mode = "".join(str(labels[digit]) for digit in _three(number))
            yield Item(f"{number:05}", mode, size, stamp)


def _three(number: int) -> list[int]:
    """Places among the digits: 32 bits each of a hash, which no other version of any library draws otherwise."""
    words = hashlib.blake2b(str(number).encode(), digest_size=12, person=b"stacked-mnist").digest()
    return [int.from_bytes(words[at : at + 4], "big") % 5000 for at in (0, 4, 8)]
