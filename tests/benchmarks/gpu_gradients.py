"""Whether two processes' gradients are those of one process on the whole batch, on any device and backend."""

import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu_steps import KINDS, STREAMS, noise_images, small_spec, stepping
from torch import multiprocessing

from ganmodels.losses import LOSSES
from ganmodels.penalties import METHODS
from ganmodels.saving import from_bytes, to_bytes
from pipeline.config import Training
from pipeline.training.determinism import be_deterministic

BATCH = 2 * STREAMS


def gradients_apart(device: torch.device, backend: str) -> dict[str, float]:
    """By case: the largest difference of a step's gradients, of all networks, by the largest of them.

    In float64, with every penalty at once. One process starts first; then two, each on a GPU of its own if there are
    two.
    """
    with tempfile.TemporaryDirectory() as folder:
        for world in (1, 2):
            arguments = (world, backend, device.type, folder)
            multiprocessing.spawn(_write_gradients, arguments, nprocs=world)
        one, two = (from_bytes(Path(folder, f"{world}").read_bytes()) for world in (1, 2))
    return {case: ((two[case] - one[case]).abs().max() / one[case].abs().max()).item() for case in one}


def _write_gradients(rank: int, world: int, backend: str, kind: str, folder: str) -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if kind == "cuda":
        device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    be_deterministic(device)
    if world > 1:
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = {
        f"{networks} {loss} {method}": _gradients(networks, loss, method, device, rank, world)
        for networks, loss, method in product(KINDS, LOSSES, METHODS)
    }
    if rank == 0:
        Path(folder, f"{world}").write_bytes(to_bytes(found))
    if world > 1:
        dist.destroy_process_group()


def _gradients(networks: str, loss: str, method: str, device: torch.device, rank: int, world: int) -> torch.Tensor:
    """Of all networks, as their optimizers find them in the first step, `(weights,)`."""
    training = Training.model_validate(
        {"batch": BATCH, "loss": loss, "r1": 1, "r2": 1, "gp": 1, "penalty_method": method, "penalty_every": 1}
    )
    spec = small_spec(networks)
    state, step = stepping(spec, training, device, rank=rank, world=world, double=True)
    gradients: list[torch.Tensor] = []
    for optimizer in (state.optimizer_g, state.optimizer_d):
        optimizer.register_step_pre_hook(partial(_collect, gradients))
    step(*noise_images(spec, BATCH, rank=rank, world=world), False)
    return torch.cat(gradients)


def _collect(gradients: list[torch.Tensor], optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        gradients.extend(weight.grad.flatten().cpu() for weight in group["params"])
