"""One process at a time that writes shards into a folder."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.lease import SECONDS
from pipeline.locks import Held, one_writer
from pipeline.storage import Storage

_LOCK = "lock"


@contextmanager
def alone(out: Storage, seconds: float = SECONDS) -> Iterator[Held]:
    """The lock of the folder, to check before the manifest is written; the folder does not keep it.

    Raises UserError while another process writes there.
    """
    busy = f"another process writes shards into {out.name} now; wait for it, or give another --out"
    with one_writer(out, _LOCK, busy, seconds) as held:
        try:
            yield held
        finally:
            if out.is_local:  # while it is held still, else it could be another's; a lease leaves nothing by itself
                out.delete(_LOCK)
