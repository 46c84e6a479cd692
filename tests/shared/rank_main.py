"""One training process of a gloo group, as Ray would start it; it writes what it consumed."""

import json
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist

from ganmodels.spec import NetworkSpec
from pipeline.config import Config
from pipeline.shards.batches import StreamBatches
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage
from pipeline.training import step, worker
from pipeline.training.job import Job
from pipeline.training.plan import RunPlan


def main(arguments: dict, rank: int, world: int) -> None:
    warnings.simplefilter("error", FutureWarning)  # torch tells of what it will drop
    torch.set_default_dtype(torch.float64 if arguments["double"] else torch.float32)
    if world > 1:
        dist.init_process_group("gloo", init_method=arguments["rendezvous"], rank=rank, world_size=world)
    plan = RunPlan(
        run=arguments["run"],
        dataset=DatasetRef(*arguments["dataset"]),
        spec=NetworkSpec.from_dict(arguments["spec"]),
        classes=arguments["classes"],
        bf16=arguments["bf16"],
        total_steps=arguments["total_steps"],
        init=Path(arguments["init"]).read_bytes() if arguments["init"] else None,
    )
    job = Job(Storage(arguments["storage"]), Config.model_validate(arguments["config"]), plan, threads=1)
    consumed: dict[int, list] = {}
    read = StreamBatches.__getitem__

    def spy(self: StreamBatches, at: int):
        keys = [self.reader.keys(*self.order.rows(at, stream)) for stream in self.streams]
        consumed[at] = [key for stream in keys for key in stream]
        return read(self, at)

    StreamBatches.__getitem__ = spy  # type: ignore[method-assign]
    if arguments["stop_at"] is not None:  # as if the stop word were found then
        steps = iter(range(1, 10**9))
        worker._stop_asked = lambda job, recorder: nullcontext(lambda: next(steps) == arguments["stop_at"])  # type: ignore
    if arguments["poison"] and rank == world - 1:
        _poison({int(step): times for step, times in arguments["poison"].items()})
    worker.work(job, torch.device("cpu"))
    with open(f"{arguments['consumed']}.{rank}", "w") as file:
        json.dump(consumed, file)
    if world > 1:
        dist.destroy_process_group()


def _poison(steps: dict[int, int]) -> None:
    """The latents of these steps are NaN, so many times each."""

    def latents(rows: int, z_dim: int, seed: int, at: int, *key: object) -> torch.Tensor:
        drawn = whole(rows, z_dim, seed, at, *key)
        if steps.get(at) and key[0] == "noise":
            steps[at] -= 1
            drawn = drawn * float("nan")
        return drawn

    whole, step.latents = step.latents, latents
