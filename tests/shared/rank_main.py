"""One training process of a gloo group, as Ray would start it; it writes what it consumed."""

import json
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from ganmodels.spec import NetworkSpec
from pipeline.config import Config
from pipeline.shards.batches import StreamBatches
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage
from pipeline.training import worker
from pipeline.training.plan import RunPlan


def main(arguments: dict, rank: int, world: int) -> None:
    warnings.simplefilter("error", FutureWarning)  # torch tells of what it will drop
    if world > 1:
        dist.init_process_group("gloo", init_method=arguments["rendezvous"], rank=rank, world_size=world)
    plan = RunPlan(
        run=arguments["run"],
        dataset=DatasetRef(*arguments["dataset"]),
        spec=NetworkSpec.from_dict(arguments["spec"]),
        classes=[],
        bf16=arguments["bf16"],
        total_steps=arguments["total_steps"],
        init=Path(arguments["init"]).read_bytes() if arguments["init"] else None,
    )
    job = worker.Job(Storage(arguments["storage"]), Config.model_validate(arguments["config"]), plan, threads=1)
    consumed: dict[int, list] = {}
    read = StreamBatches.__getitem__

    def spy(self: StreamBatches, step: int):
        keys = [self.reader.keys(*self.order.rows(step, stream)) for stream in self.streams]
        consumed[step] = [key for stream in keys for key in stream]
        return read(self, step)

    StreamBatches.__getitem__ = spy  # type: ignore[method-assign]
    if arguments["stop_at"] is not None:  # as if the stop word were found then
        poll, steps = worker._stop_poll, iter(range(1, 10**9))
        worker._stop_poll = lambda job: poll(job) and (lambda: next(steps) == arguments["stop_at"])  # type: ignore
    worker.work(job, torch.device("cpu"))
    with open(f"{arguments['consumed']}.{rank}", "w") as file:
        json.dump(consumed, file)
    if world > 1:
        dist.destroy_process_group()
