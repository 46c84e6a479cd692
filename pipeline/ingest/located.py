"""What the sources that lie somewhere share."""

from pipeline.ingest.options import AUTO, Options
from pipeline.ingest.place import Place


class Located:
    """A source by its path or URI: that and the options are all that is pickled, compared and hashed."""

    def __init__(self, uri: str, options: Options = AUTO):
        self.place, self.options = Place(uri), options

    def __reduce__(self):
        return type(self), (self.place.uri, self.options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Located) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash(self.__reduce__())
