"""What each reference was last found to name, on this machine's disk: for the time when the registry is away.

A record is written once the release's verified files are in the cache, and belongs to one tracking server.
"""

from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

from pipeline.redact import redact
from pipeline.registry.found import Found
from pipeline.registry.server import tracking_uri
from pipeline.storage import Storage, cache_root, sha256

_RENEWED_AFTER = timedelta(minutes=1)  # to write it at each load would take longer than all the rest of it


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def remember_found(storage: Storage, found: Found) -> None:
    """Keeps what the registry said, but not over what it said later, and not in a cache that can only be read."""
    kept = recall_found(storage, found.model, found.which)
    if kept and kept.as_of <= now():  # else the clock was put back
        age = datetime.fromisoformat(found.as_of) - datetime.fromisoformat(kept.as_of)
        if age < timedelta() or (kept == found and age < _RENEWED_AFTER):
            return
    with suppress(OSError):
        Storage(str(cache_root(storage))).write_json(_path(storage, found.model, found.which), asdict(found))


def recall_found(storage: Storage, model: str, which: str | int) -> Found | None:
    """As it was kept, but `stale`; None if nothing is there that can be read."""
    try:
        values = Storage(str(cache_root(storage))).read_json(_path(storage, model, which))
        found = replace(Found(**values), stale=True)
        datetime.fromisoformat(found.as_of)
    except (OSError, TypeError, ValueError):
        return None
    return found if (found.model, found.which) == (model, which) else None


def forget_found(storage: Storage, model: str, which: str | int) -> None:
    """The registry has said that there is no such release."""
    with suppress(OSError):  # likewise
        Storage(str(cache_root(storage))).delete(_path(storage, model, which))


def _path(storage: Storage, model: str, which: str | int) -> str:
    server = sha256(redact(tracking_uri(storage)).encode())[:16]  # a new password is no other server
    return f"resolved/{server}/{model}@{which}.json"
