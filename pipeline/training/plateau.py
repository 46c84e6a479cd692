"""Whether a run still gets better, by what is measured of it now and then."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Best:
    """The lowest distance so far and the images seen then; `since` counts the measurements after it."""

    distance: float | None = None
    at: int = 0
    since: int = 0

    def after(self, distance: float, images: int) -> "Best":
        """With a measurement more, taken when so many images had been seen. Equal is no better, and NaN is not."""
        if self.distance is None or distance < self.distance:
            # A NaN would never be beaten.
            return Best(distance, images) if distance == distance else self
        return Best(self.distance, self.at, self.since + 1)


def reached(best: Best, patience: int | None) -> bool:
    """Whether the last `patience` measurements were all no better than the one before them; None: never."""
    return patience is not None and best.since >= patience
