"""What the tasks of an ingest share."""

from dataclasses import dataclass
from functools import lru_cache

from pipeline.config import Data
from pipeline.ingest.image import ImageRules, rules_of
from pipeline.ingest.source import Source, open_source
from pipeline.location import absolute
from pipeline.storage import Storage


@dataclass(frozen=True)
class Job:
    storage: Storage
    name: str  # of the dataset
    source: Source
    origin: str  # where that is, the same however it was written
    rules: ImageRules
    encoding: str
    quality: int


def make_job(storage: Storage, name: str, data: Data) -> Job:
    """Raises UserError for a source that is missing, or of no known kind."""
    source = open_source(data.source, data.labels, data.image_column)
    return Job(storage, name, source, absolute(data.source), rules_of(data), data.encoding, data.quality)


def opened(job: Job) -> Source:
    """The same one for all tasks of a process: what it has listed or unpacked need not be again."""
    return _kept(job.source)


@lru_cache(maxsize=1)
def _kept(source: Source) -> Source:
    return source
