"""Images in tars, WebDatasets among them; packed or not.

An item's path is `name#offset`, the offset being that of the member's first header: a copy of the source reads
an item without listing the tar, and a run of neighbours is one read forward. Below a folder of tars it is
`file.tar/name#offset`.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from pipeline.errors import UserError
from pipeline.ingest import unpack
from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.item import MAX_BYTES, Item, clean, is_hidden
from pipeline.ingest.layout import arrange
from pipeline.ingest.located import Located
from pipeline.ingest.options import AUTO, Options
from pipeline.ingest.place import Place
from pipeline.ingest.reading import Held
from pipeline.ingest.tar_members import Header, Member, images_of, members, sample_label
from pipeline.patience import first_line

_DAMAGE = (tarfile.TarError, RecursionError, *unpack.DAMAGE)
_SUFFIX = re.compile(r"\.(tar|tgz|tbz2?|txz)(\.(gz|bz2|xz|zst))?$", re.IGNORECASE)
_WITHIN = re.compile(_SUFFIX.pattern[:-1] + "/", re.IGNORECASE)


class TarSource(Located):
    """Regular files of one tar, or of all below a folder; links, devices and hidden files are passed over.

    Of a sample `x.jpg`, `x.cls`, `x.json`, `x.txt` only the image is an item; its label is what `.cls` or the
    `label` (or `cls`) in `.json` says. Without any such label in the source, folders within a tar are classes.
    """

    def __init__(self, uri: str, options: Options = AUTO):
        super().__init__(uri, options)
        self._held = Held(self.place, self._open)

    def items(self) -> Iterator[Item]:
        return arrange(self._list(), str(self.place), self.options, inside=self._inside)

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        for name, run in groupby((self._split(path) for path in paths), key=lambda split: split[0]):
            archive: tarfile.TarFile | InvalidImage
            try:
                archive = self._held.get(name)
            except FileNotFoundError:
                archive = InvalidImage("unreadable", f"{name} is gone")
            for _, member, offset in run:
                yield archive if isinstance(archive, InvalidImage) else _read(archive, member, offset)

    def _list(self) -> Iterator[Item]:
        for file in self.place.files(_SUFFIX.search):
            path = self.place.join(file.path)
            below = f"{file.path}/" if self.place.is_folder else ""
            try:
                # A tar holds no checksum of a member: any change of the tar is a change of all of them.
                for item in _samples(self._held.get(path), self.options):
                    yield Item(below + item.path, item.label, item.size, f"{file.stamp}-{item.path.rpartition('#')[2]}")
            except _DAMAGE as error:
                raise _broken(path, error) from None

    def _open(self, path: str) -> tarfile.TarFile:
        """Raises FileNotFoundError, UserError."""
        try:
            return tarfile.TarFile(fileobj=unpack.seekable(self.place.open(path)), tarinfo=Header)
        except FileNotFoundError:
            raise
        except _DAMAGE as error:
            raise _broken(path, error) from None

    def _split(self, path: str) -> tuple[str, str, int]:
        """The tar's path, the member's name and its offset."""
        tar = self.place.path
        if self.place.is_folder:
            ends = [found.end() for found in _WITHIN.finditer(path)]
            # A folder may be named like a tar.
            end = next((end for end in ends[:-1] if self.place.stamp(self.place.join(path[: end - 1]))), ends[-1])
            tar, path = self.place.join(path[: end - 1]), path[end:]
        name, _, offset = path.rpartition("#")
        return tar, name, int(offset)

    def _inside(self, path: str) -> str:
        return self._split(path)[1]


def _samples(archive: tarfile.TarFile, options: Options) -> Iterator[Item]:
    """Items of one tar, without a stamp."""
    for _, group in groupby(members(archive), key=lambda member: member.sample):
        sample: list[Member] = list(group)
        images = images_of(sample)
        has_label = options.own_labels and images and len(sample) > 1
        label = sample_label(archive, sample, options.label_column) if has_label else None
        for member in images or sample:
            if not is_hidden(member.name):
                yield Item(f"{member.name}#{member.offset}", label, member.size)


def _broken(path: str, error: BaseException) -> UserError:
    return UserError(f"cannot read {path}: {first_line(error)}; make or copy it again (unpacking needs room in TMPDIR)")


def _read(archive: tarfile.TarFile, name: str, offset: int) -> bytes | InvalidImage:
    file: Any = archive.fileobj
    try:
        file.seek(offset)
        member = Header.fromtarfile(archive)
        if clean(member.name) != name or not member.isreg():
            return InvalidImage("unreadable", "no longer at this place in the tar")
        if member.size > MAX_BYTES:
            return InvalidImage("too_large", f"{member.size} bytes, which no image needs")
        if member.issparse():
            return archive.extractfile(member).read()  # type: ignore[union-attr]
        file.seek(member.offset_data)
        data = file.read(member.size)
    except (tarfile.TarError, RecursionError, ValueError) as error:
        return InvalidImage("corrupt", f"damaged in the tar: {error}")
    if len(data) != member.size:
        return InvalidImage("corrupt", "the tar ends within it")
    return data


def recognise(place: Place, options: Options) -> TarSource | None:
    if place.is_folder:
        return TarSource(place.uri, options) if place.holds(_SUFFIX.search) else None
    return TarSource(place.uri, options) if _is_tar(place.start) else None


def _is_tar(start: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return start[: tarfile.BLOCKSIZE] == bytes(tarfile.BLOCKSIZE)  # an empty tar is an end mark alone
    return True
