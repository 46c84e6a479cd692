"""One change of a dataset at a time, on this machine."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.locks import exclusive
from pipeline.storage import Storage, cache_root, sha256


@contextmanager
def alone(storage: Storage, name: str) -> Iterator[Path]:
    """A folder on local disk for the tables of an ingest. Raises UserError while the dataset is being changed."""
    here = cache_root(storage) / "ingests" / f"{name}-{sha256(storage.uri.encode())[:8]}"
    busy = f"dataset {name} is being sharded already, or images are removed from it; wait for that, or stop it first"
    with exclusive(here.with_name(f"{here.name}.lock"), busy):
        shutil.rmtree(here, ignore_errors=True)  # of one that was killed
        here.mkdir(parents=True)
        try:
            yield here
        finally:
            shutil.rmtree(here, ignore_errors=True)
