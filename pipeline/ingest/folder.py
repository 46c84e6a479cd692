"""A folder tree of image files."""

from collections.abc import Iterator, Sequence

from pipeline.ingest.invalid import InvalidImage
from pipeline.ingest.item import Item
from pipeline.ingest.layout import arrange
from pipeline.ingest.located import Located
from pipeline.ingest.options import Options
from pipeline.ingest.place import Place
from pipeline.ingest.reading import ahead, read_file


class FolderSource(Located):
    """Every regular file below the folder that is not hidden; classes are folders."""

    def items(self) -> Iterator[Item]:
        return arrange(self.place.walk(), str(self.place), self.options, inside=str)

    def read(self, paths: Sequence[str]) -> Iterator[bytes | InvalidImage]:
        return (map if self.place.is_local else ahead)(self._read, paths)

    def _read(self, path: str) -> bytes | InvalidImage:
        return read_file(self.place, self.place.join(path))


def recognise(place: Place, options: Options) -> FolderSource | None:
    return FolderSource(place.uri, options) if place.is_folder else None
