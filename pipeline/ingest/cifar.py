"""CIFAR-10's binary files: records of one label byte and 32 x 32 x 3 pixels, planes one after the other.

An item's path is `file.bin#record`; its label is the name in `batches.meta.txt`, where that lies beside, or the
number.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from pipeline.errors import UserError
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.item import Item
from pipeline.ingest.layout import arrange
from pipeline.ingest.located import Located
from pipeline.ingest.netpbm import netpbm, netpbm_size
from pipeline.ingest.options import AUTO, Options
from pipeline.ingest.place import Place
from pipeline.ingest.reading import Held

_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE
_NAME = re.compile(r"(^|/)(data_batch_\d+|test_batch)\.bin$")


class CifarSource(Located):
    """One file, or all below a folder."""

    def __init__(self, uri: str, options: Options = AUTO):
        super().__init__(uri, options)
        self._held = Held(self.place, self.place.open)

    def items(self) -> Iterator[Item]:
        return arrange(self._list(), str(self.place), self.options)

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        split = ((name, int(record)) for name, _, record in (path.rpartition("#") for path in paths))
        for name, run in groupby(split, key=lambda pair: pair[0]):
            try:
                file = self._held.get(self.place.join(name))
            except FileNotFoundError:
                yield from (InvalidImage("unreadable", f"{name} is gone") for _ in run)
                continue
            for _, record in run:
                file.seek(record * _RECORD)
                data = file.read(_RECORD)
                if len(data) == _RECORD:
                    yield netpbm(np.frombuffer(data, np.uint8, offset=1).reshape(3, _SIDE, _SIDE).transpose(1, 2, 0))
                else:
                    yield InvalidImage("truncated", "the file ends within it")

    def _list(self) -> Iterator[Item]:
        size = netpbm_size(_SIDE, _SIDE, 3)
        for file in self.place.files(_NAME.search):
            path = self.place.join(file.path)
            if file.size % _RECORD:
                raise UserError(f"{path} is cut: {file.size} bytes are no multiple of {_RECORD}; copy it again")
            try:
                names = self._names(path)
                with self.place.open(path) as records:
                    for number in range(file.size // _RECORD):
                        label = records.read(_RECORD)[0]
                        if names and label >= len(names):
                            raise UserError(f"record {number} of {path} is of class {label}, which batches.meta.txt"
                                            " does not name; copy both again")  # fmt: skip
                        name = names[label] if names else str(label)
                        yield Item(f"{file.path}#{number}", name, size, f"{file.stamp}-{number}")
            except OSError as error:
                raise self.place.refuse(error) from None

    def _names(self, path: str) -> list[str]:
        try:
            text = self.place.read(f"{path.rpartition('/')[0]}/batches.meta.txt").decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        return text.split()


def recognise(place: Place, options: Options) -> CifarSource | None:
    found = place.holds(_NAME.search) if place.is_folder else _NAME.search(place.names[0])
    return CifarSource(place.uri, options) if found else None
