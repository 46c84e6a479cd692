"""What a training process is told."""

from dataclasses import dataclass

from pipeline.config import Config
from pipeline.storage import Storage
from pipeline.training.plan import RunPlan


@dataclass(frozen=True)
class Job:
    """Everything a worker needs to know; plain values, so that it can be sent anywhere."""

    storage: Storage
    config: Config
    plan: RunPlan
    threads: int
