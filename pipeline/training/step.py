"""One training step: the generator's turn, the discriminator's turn on the same fakes, the average.

The generator moves first and hands its fakes on, so each step pays for one generator pass, not two.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ganmodels.ema import ema_decay, update_ema
from ganmodels.norm import world_size
from ganmodels.objective import DiscriminatorObjective, GeneratorObjective, Objective
from ganmodels.randomness import latents
from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.training.state import TrainState

Step = Callable[[torch.Tensor, torch.Tensor, bool], tuple[dict[str, float], bool]]


def make_step(
    state: TrainState, training: Training, *, spec: NetworkSpec, streams: range, all_streams: int, bf16: bool
) -> Step:
    """A function that advances `state` by one step.

    It takes this rank's uint8 images `(n, c, h, w)`, labels `(n,)` and whether this rank wants to stop, and
    returns the step's global means and whether any rank wants to stop: one collective shares both.
    """
    device = next(state.generator.parameters()).device
    world, rows = world_size(), training.batch // all_streams
    scale = world / training.batch
    objective = Objective(training.loss, training.r1, training.r2, training.penalty_every)
    # The discriminator is frozen while the generator's objective is wrapped, so that DDP reduces only G's weights.
    state.discriminator.requires_grad_(False)
    generator_loss = _distributed(GeneratorObjective(state.generator, state.discriminator, objective))
    state.discriminator.requires_grad_(True)
    discriminator_loss = _distributed(DiscriminatorObjective(state.discriminator, objective))

    def autocast() -> AbstractContextManager:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)

    def step(images: torch.Tensor, labels: torch.Tensor, stop: bool) -> tuple[dict[str, float], bool]:
        penalise = state.step % training.penalty_every == 0 and (training.r1 > 0 or training.r2 > 0)
        real = images.to(device, non_blocking=True).float().div_(127.5).sub_(1)
        classes_of = labels.to(device, non_blocking=True) if spec.classes else None
        noise = [latents(rows, spec.z_dim, training.seed, state.step, "noise", stream) for stream in streams]
        z = torch.cat(noise).to(device, non_blocking=True)

        state.discriminator.requires_grad_(False)
        with autocast():
            loss_g, fake = generator_loss(z, real, classes_of, scale)
        loss_g.backward()
        _apply(state.optimizer_g)

        state.discriminator.requires_grad_(True)
        with autocast():
            loss_d, sums = discriminator_loss(real, fake, classes_of, scale, penalise)
        loss_d.backward()
        _apply(state.optimizer_d)

        state.step += 1
        decay = ema_decay(training.batch, state.step * training.batch, training.ema_half_life)
        update_ema(state.ema, state.generator, decay)

        shared = torch.stack([loss_g.detach() / scale, loss_d.detach() / scale, *sums, sums.new_tensor(float(stop))])
        if world > 1:
            dist.all_reduce(shared)
        loss_g_mean, loss_d_mean, real_mean, fake_mean, r1, r2 = (shared[:-1].double() / training.batch).tolist()
        figures = {"loss_g": loss_g_mean, "loss_d": loss_d_mean, "logit_real": real_mean, "logit_fake": fake_mean}
        if penalise:
            figures |= {"r1": r1} if training.r1 > 0 else {}
            figures |= {"r2": r2} if training.r2 > 0 else {}
        return figures, bool(shared[-1] > 0)

    return step


def _distributed(objective: nn.Module) -> nn.Module:
    if world_size() == 1:
        return objective
    # find_unused_parameters keeps DDP from rebuilding its buckets after the first step: a resumed run, which
    # has a first step of its own, would add gradients in another order. Buffers are global already (ganmodels.norm).
    return DistributedDataParallel(
        objective, find_unused_parameters=True, forward_sync_buffers=False, gradient_as_bucket_view=True
    )


def _apply(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
