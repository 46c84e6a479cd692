"""What a generated picture says of itself: its model, version and seed, as text in the file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Provenance:
    """Of pictures that one generator made with one seed. `version` is None where that is not known."""

    model: str
    version: int | None
    seed: int
    truncation: float = 1.0

    def of_image(self, index: int, label: str | None = None) -> dict[str, str]:
        """Keywords and values for `pipeline.pictures.to_png`; `label` is the class's name."""
        return self._text({"index": str(index), "label": label})

    def of_grid(self, images: int, label: str | None = None) -> dict[str, str]:
        """Likewise, of images 0 to `images - 1` in one picture; `label` if all are of one class."""
        return self._text({"images": str(images), "label": label})

    def _text(self, more: dict[str, str | None]) -> dict[str, str]:
        values = {
            "model": self.model,
            "version": None if self.version is None else str(self.version),
            "seed": str(self.seed),
            **more,
            "truncation": None if self.truncation == 1 else repr(float(self.truncation)),
        }
        told = {f"ganline.{name}": value for name, value in values.items() if value is not None}
        return {"Software": "Ganline", **told}
