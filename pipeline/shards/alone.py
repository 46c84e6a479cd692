"""One change of a dataset at a time, from whatever machine."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.lease import SECONDS
from pipeline.locks import Held, one_writer
from pipeline.shards.manifest import dataset_folder
from pipeline.storage import Storage, cache_root, sha256


@contextmanager
def alone(storage: Storage, name: str, seconds: float = SECONDS) -> Iterator[tuple[Path, Held]]:
    """A folder on local disk for the tables of an ingest, and the lock to check before anything is committed.

    Raises UserError while the dataset is being changed.
    """
    busy = f"dataset {name} is being sharded already, or images are removed from it; wait for that, or stop it first"
    with one_writer(storage, f"{dataset_folder(name)}/lock", busy, seconds) as held:
        ours = cache_root(storage) / "ingests" / f"{name}-{sha256(storage.uri.encode())[:8]}"
        shutil.rmtree(ours, ignore_errors=True)  # of one that was killed
        # One that lost its lease deletes its own when it ends, not that of its successor.
        here = ours / uuid.uuid4().hex
        here.mkdir(parents=True)
        try:
            yield here, held
        finally:
            shutil.rmtree(here, ignore_errors=True)
            with suppress(OSError):
                ours.rmdir()
