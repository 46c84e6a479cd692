"""Why a file is refused."""

from collections.abc import Callable, Iterable, Iterator


class InvalidImage(Exception):
    """The bytes give no image; `reason` is one snake_case word, `detail` one line for people."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason = reason
        self.detail = " ".join(detail.split())[:200]

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def read_each(read: Callable[[str], bytes], paths: Iterable[str]) -> Iterator["bytes | InvalidImage"]:
    """`read` of each path, or the InvalidImage that it raised."""
    for path in paths:
        try:
            yield read(path)
        except InvalidImage as error:
            yield error
