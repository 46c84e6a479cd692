"""Steps whose losses or gradients are not finite: skipped, counted, and too many of them in a row answered once."""

from dataclasses import dataclass, replace

HALVED = 0.5  # of the learning rate, after the run went back


class NotFinite(Exception):
    """Too many steps in a row whose figures are not finite, on every rank alike. Says which, and at which image."""


@dataclass(frozen=True)
class Health:
    """`skipped` steps in all and `in_a_row` just now. `rate` multiplies the learning rate; below 1, the run has gone
    back to a checkpoint once. Part of the state: a resumed run counts on."""

    skipped: int = 0
    in_a_row: int = 0
    rate: float = 1.0

    @property
    def went_back(self) -> bool:
        return self.rate < 1

    def after(self, finite: bool) -> "Health":
        if finite:
            return replace(self, in_a_row=0) if self.in_a_row else self
        return replace(self, skipped=self.skipped + 1, in_a_row=self.in_a_row + 1)

    def gone_back(self, skipped: int) -> "Health":
        """That of a state from before, which goes on with another learning rate. `skipped`: in all, until then."""
        return Health(skipped=skipped, rate=self.rate * HALVED)
