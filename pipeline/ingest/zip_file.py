"""Images in a zip. Members are read into memory, never written to disk by their own names."""

import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial

from pipeline.errors import Unavailable, UserError
from pipeline.ingest.invalid import InvalidImage, read_each
from pipeline.ingest.item import MAX_BYTES, Item, clean, is_hidden
from pipeline.ingest.layout import arrange
from pipeline.ingest.located import Located
from pipeline.ingest.options import AUTO, Options
from pipeline.ingest.place import Place
from pipeline.ingest.reading import Held
from pipeline.patience import first_line

# What zipfile raises when a zip or a member of it is damaged.
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError)


class ZipSource(Located):
    """A zip's regular files; links, devices and hidden files are passed over. Its directory is held in memory."""

    def __init__(self, uri: str, options: Options = AUTO):
        super().__init__(uri, options)
        self._held = Held(self.place, self._open)

    def items(self) -> Iterator[Item]:
        return arrange(self._list(), str(self.place), self.options, inside=str)

    def _list(self) -> Iterator[Item]:
        _, members = self._held.get(self.place.path)
        for path, member in sorted(members.items(), key=lambda pair: pair[1].header_offset):
            if member.flag_bits & 1:
                raise UserError(f"{self.place} is encrypted; unpack it into a folder and give that")
            yield Item(path, None, member.file_size, f"{member.file_size}-{member.CRC:08x}")

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        archive, members = self._held.get(self.place.path)
        return read_each(partial(self._read, archive, members), paths)

    def _read(self, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: str) -> bytes:
        member = members.get(path)
        if member is None:
            raise InvalidImage("unreadable", "no longer in the zip")
        if member.file_size > MAX_BYTES:
            raise InvalidImage("too_large", f"{member.file_size} bytes, which no image needs")
        try:
            return archive.read(member)
        except _DAMAGE as error:
            raise InvalidImage("corrupt", f"damaged in the zip: {error}") from None

    def _open(self, path: str) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        try:
            archive = zipfile.ZipFile(self.place.open(path))
        except _DAMAGE as error:
            raise UserError(f"cannot read {self.place}: {first_line(error)}; make or copy it again") from None
        members = {}
        for member in archive.infolist():
            name = clean(member.filename)
            # Zips from other systems than Unix leave the type at 0.
            kind = stat.S_IFMT(member.external_attr >> 16)
            if not member.is_dir() and kind in (0, stat.S_IFREG) and not is_hidden(name):
                members[name] = member
        return archive, members


def recognise(place: Place, options: Options) -> ZipSource | None:
    if place.is_folder:
        return None
    try:
        with place.open() as file:
            return ZipSource(place.uri, options) if zipfile.is_zipfile(file) else None
    except Unavailable:
        raise
    except OSError as error:
        raise place.refuse(error) from None
