"""What the tasks of an ingest share."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.ingest.image import ImageRules
from pipeline.ingest.source import Source, absolute, open_source
from pipeline.storage import Storage


@dataclass(frozen=True)
class Job:
    storage: Storage
    name: str  # of the dataset
    source: str
    source_stamp: str  # of an archive; files in a folder have their own
    rules: ImageRules
    encoding: str


def make_job(storage: Storage, name: str, source: str, rules: ImageRules, encoding: str) -> Job:
    path = Path(absolute(source))
    stamp = f"{path.stat().st_size}-{path.stat().st_mtime_ns}" if path.is_file() else ""
    return Job(storage, name, absolute(source), stamp, rules, encoding)


def opened(job: Job) -> Source:
    """Once a process: an archive has to be listed, or unpacked, before the first image can be read."""
    return _opened(job.source, job.source_stamp)


@lru_cache(maxsize=1)
def _opened(source: str, stamp: str) -> Source:
    """`stamp` tells one content of the file from the next at the same place."""
    return open_source(source, listed=False)
