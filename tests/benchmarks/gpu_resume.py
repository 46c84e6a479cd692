"""Whether a training process that is killed and started again ends with the bits of one left alone."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from ganmodels.saving import from_bytes
from pipeline.config import Config
from pipeline.shards.manifest import latest_version
from pipeline.storage import Storage
from pipeline.training.checkpoint import newest_checkpoint, newest_step, read_files
from pipeline.training.job import Job
from pipeline.training.plan import RunPlan, plan_run
from pipeline.training.worker import work

GANLINE = str(Path(sys.executable).parent / "ganline")
NAME = "gpu-check"
LIMIT_SECONDS = 600
CASES: dict[str, dict[str, Any]] = {
    "dcgan": {"model": {"width": 8}},
    "resnet with an encoder": {"model": {"family": "resnet", "width": 8, "max_width": 32, "bigan": True}},
    "r3gan with ADA": {
        "model": {"family": "r3gan", "width": 8, "max_width": 32},
        "training": {"loss": "relativistic", "r2": 1.0, "augment": "ada", "augment_p": 0.5},
    },
}


@dataclass(frozen=True)
class Apart:
    """Largest differences of any weight from the run left alone: of the killed one, and of another left alone."""

    killed_at: int  # images
    killed_apart: float
    again_apart: float


def killed_and_left_alone(case: str, device: torch.device) -> Apart:
    """Three runs of one recipe on the built-in digits; no Ray. Raises RuntimeError for one that fails or hangs."""
    steps = 40 if device.type == "cpu" else 400
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        sharded = [GANLINE, "shard", "mnist5k", "--name", NAME, "--storage", folder]
        subprocess.run(sharded, check=True, capture_output=True)
        dataset = latest_version(storage, NAME)
        assert dataset is not None
        config = Config.model_validate({"name": NAME, **CASES[case], "training": _training(case, steps)})
        plan = plan_run(storage, config, dataset)
        alone, again, killed = (replace(plan, run=f"{plan.run}-{how}") for how in ("alone", "again", "killed"))
        for each in (alone, again):
            _finish(Job(storage, config, each, threads=1), device)
        first = _start(Job(storage, config, killed, threads=1), device)
        deadline = time.monotonic() + LIMIT_SECONDS
        while first.is_alive() and not newest_step(storage, killed.run) and time.monotonic() < deadline:
            time.sleep(0.001)
        first.kill()
        first.join()
        killed_at = newest_step(storage, killed.run) * config.training.batch
        if not 0 < killed_at < steps * config.training.batch:
            raise RuntimeError(f"it was to be killed in mid-run, but had a checkpoint at image {killed_at:,}")
        _finish(Job(storage, config, killed, threads=1), device)
        left = _weights(storage, alone)
        return Apart(
            killed_at, _difference(left, _weights(storage, killed)), _difference(left, _weights(storage, again))
        )


def _training(case: str, steps: int) -> dict[str, Any]:
    return {"images": steps * 64, "checkpoint_every": steps * 64 // 10, **CASES[case].get("training", {})}


def _start(job: Job, device: torch.device) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(job, device))
    process.start()
    return process


def _finish(job: Job, device: torch.device) -> None:
    process = _start(job, device)
    process.join(LIMIT_SECONDS)
    if process.exitcode != 0:
        process.kill()
        raise RuntimeError(f"a training process ended with {process.exitcode}")


def _weights(storage: Storage, plan: RunPlan) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(storage, plan.run)
    assert checkpoint is not None
    files = read_files(storage, checkpoint)
    return {
        f"{file} {name}": tensor
        for file, data in files.items()
        if file.endswith(".safetensors")
        for name, tensor in from_bytes(data).items()
    }


def _difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)
