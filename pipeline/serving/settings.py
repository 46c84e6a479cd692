"""What a replica is told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """`token_sha256` is the hexadecimal digest of the bearer token that is asked for; None: none is."""

    reference: str
    storage_uri: str
    token_sha256: str | None = None
