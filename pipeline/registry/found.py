"""What a reference to a release was found to name."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Found:
    """A released version: what it is, where it came from, and the sha256 of its files.

    `metrics` are the latest finite figures of its run; `alias` is None if it was asked for by number; `uri`
    is the whole model's, as MLflow has it, and its files lie in `folder` below. `encoder_sha256` is None without one.
    `as_of` is when the registry said so (ISO 8601, UTC); `stale`: it does not answer now, and may say otherwise when
    it does. The same release compares equal whenever it was found.
    """

    model: str
    version: int
    alias: str | None
    run_id: str
    dataset: str
    config: str
    metrics: dict[str, float]
    uri: str
    weights_sha256: str
    spec_sha256: str
    folder: str = ""
    encoder_sha256: str | None = None
    as_of: str = field(default="", compare=False)
    stale: bool = field(default=False, compare=False)

    @property
    def which(self) -> str | int:
        """The alias or number that it was asked for by."""
        return self.version if self.alias is None else self.alias

    def is_release(self, other: "Found") -> bool:
        """Whether both are one release. The number alone does not tell: a model made anew counts from one again."""
        return _identity(self) == _identity(other)


def _identity(found: Found) -> tuple[str, int, str, str]:
    return found.model, found.version, found.weights_sha256, found.spec_sha256
