"""MNIST's IDX files, gzipped or not: `...images-idx3-ubyte` with `...labels-idx1-ubyte` beside it.

An item's path is `file#index`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import IO

import numpy as np

from pipeline.errors import UserError
from pipeline.ingest import unpack
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.item import Item
from pipeline.ingest.layout import arrange
from pipeline.ingest.located import Located
from pipeline.ingest.netpbm import netpbm, netpbm_size
from pipeline.ingest.options import AUTO, Options
from pipeline.ingest.place import Place
from pipeline.ingest.reading import Held
from pipeline.patience import first_line

_NAME = re.compile(r"images[-.]idx3[-.]ubyte(\.gz)?$")
_ANY = re.compile(r"(images[-.]idx3|labels[-.]idx1)[-.]ubyte(\.gz)?$")
_IMAGES, _LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"  # unsigned bytes in three dimensions, in one
_HEADER = 16


@dataclass(frozen=True)
class _Images:
    file: IO[bytes]
    count: int
    height: int
    width: int


class IdxSource(Located):
    """One images file, or all below a folder."""

    def __init__(self, uri: str, options: Options = AUTO):
        super().__init__(uri, options)
        self._held = Held(self.place, self._open)

    def items(self) -> Iterator[Item]:
        return arrange(self._list(), str(self.place), self.options)

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        split = ((name, int(index)) for name, _, index in (path.rpartition("#") for path in paths))
        for name, run in groupby(split, key=lambda pair: pair[0]):
            try:
                images = self._held.get(self.place.join(name))
            except FileNotFoundError:
                yield from (InvalidImage("unreadable", f"{name} is gone") for _ in run)
                continue
            for _, index in run:
                shape = images.height, images.width
                images.file.seek(_HEADER + index * shape[0] * shape[1])
                data = images.file.read(shape[0] * shape[1])
                if len(data) == shape[0] * shape[1]:
                    yield netpbm(np.frombuffer(data, np.uint8).reshape(shape))
                else:
                    yield InvalidImage("truncated", "the file ends within it")

    def _list(self) -> Iterator[Item]:
        for file in self.place.files(_NAME.search):
            path = self.place.join(file.path)
            images = self._held.get(path)
            labels = self._labels(path, images.count)
            size = netpbm_size(images.height, images.width, 1)
            for index in range(images.count):
                label = str(labels[index]) if labels else None
                yield Item(f"{file.path}#{index}", label, size, f"{file.stamp}-{index}")

    def _open(self, path: str) -> _Images:
        """Raises FileNotFoundError, UserError."""
        file = self._plain(path)
        header = file.read(_HEADER)
        count, height, width = np.frombuffer(header.ljust(_HEADER, b"\0"), ">u4", 3, 4).tolist()
        if not header.startswith(_IMAGES) or not height * width or file.seek(0, 2) != _HEADER + count * height * width:
            raise UserError(f"{path} is no whole IDX file of images; copy it again")
        return _Images(file, count, height, width)

    def _labels(self, path: str, images: int) -> bytes | None:
        """One byte an image, or None if no file of labels lies beside."""
        folder, _, name = path.rpartition("/")
        beside = f"{folder}/{name.replace('images', 'labels').replace('idx3', 'idx1')}".removesuffix(".gz")
        found = next((at for at in (beside, f"{beside}.gz") if at != path and self.place.stamp(at)), None)
        if found is None or not self.options.own_labels:
            return None
        data = self._plain(found).read()
        if not data.startswith(_LABELS) or data[4:8] != images.to_bytes(4, "big") or len(data) != 8 + images:
            raise UserError(f"{found} does not hold the labels of {path}, one for each of {images}; copy both again")
        return data[8:]

    def _plain(self, path: str) -> IO[bytes]:
        try:
            return unpack.seekable(self.place.open(path))
        except FileNotFoundError:
            raise
        except unpack.DAMAGE as error:
            raise UserError(f"cannot read {path}: {first_line(error)}; copy it again") from None


def recognise(place: Place, options: Options) -> IdxSource | None:
    if place.is_folder:
        found = place.holds(_ANY.search) and any(_NAME.search(name) for name in place.names)
    else:
        found = place.start.startswith(_IMAGES)
    return IdxSource(place.uri, options) if found else None
