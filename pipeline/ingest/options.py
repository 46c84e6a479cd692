"""What is asked of a source beside the images themselves."""

from dataclasses import dataclass

_COLUMN = "column:"


@dataclass(frozen=True)
class Options:
    """`labels`: auto, none, `column:NAME`, or a JSON file's path or URI. `image_column`: None where it is plain."""

    labels: str = "auto"
    image_column: str | None = None

    @property
    def label_column(self) -> str | None:
        """NAME of `column:NAME`."""
        return self.labels.removeprefix(_COLUMN) if self.labels.startswith(_COLUMN) else None

    @property
    def label_file(self) -> str | None:
        words = self.labels in ("auto", "none")
        return None if words or self.label_column is not None else self.labels

    @property
    def own_labels(self) -> bool:
        """Whether the labels are the source's own."""
        return self.labels != "none" and self.label_file is None


AUTO = Options()
