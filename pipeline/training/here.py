"""Training in this process alone, without Ray: for a debugger, and where one worker is all there is."""

import contextvars
import os
from threading import Event, Thread

import torch

from pipeline.config import Config
from pipeline.errors import Unavailable
from pipeline.storage import Storage
from pipeline.training.job import Job
from pipeline.training.plan import RunPlan
from pipeline.training.watch import Watch
from pipeline.training.worker import work


def train_here(storage: Storage, config: Config, plan: RunPlan, watch: Watch) -> None:
    """To the end, or to a stop. Raises what goes wrong as it is."""
    threads = config.cluster.cpus_per_worker or os.cpu_count() or 1
    ended = Event()
    lost: list[Exception] = []

    def look() -> None:
        while not ended.wait(1.0) and not lost:
            try:
                watch.look()
            except Unavailable as error:  # its folder is another's by now; the next checkpoint finds that out too
                lost.append(error)

    # Who watches is known by a context variable, which a thread does not inherit.
    looking = Thread(target=contextvars.copy_context().run, args=(look,), name="watch", daemon=True)
    looking.start()
    try:
        work(Job(storage, config, plan, threads), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    finally:
        ended.set()
        looking.join()
    if lost:
        raise lost[0]
