"""One training step: both sides learn from the same fakes and the same logits in one backward, then the average.

Each side's gradients are those against the other as it was before the step.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ganmodels.ema import ema_decay, update_ema
from ganmodels.networks import draw_noise, rows_together
from ganmodels.objective import SUMS, AdversarialObjective, Objective
from ganmodels.penalties import Weights, lazily
from ganmodels.randomness import latents, uniforms
from ganmodels.ranks import world_size
from ganmodels.spec import NetworkSpec
from ganmodels.spectral import power_iteration
from pipeline.config import Training
from pipeline.scheduled import Schedule, value_at
from pipeline.training.augment import Augmentation
from pipeline.training.state import TrainState

NORMS = ("gradient_norm_g", "gradient_norm_d")  # what a step reports besides, of each optimizer's parameters
Step = Callable[[Tensor, Tensor, bool], tuple[dict[str, float], bool]]


def make_step(
    state: TrainState, training: Training, *, spec: NetworkSpec, streams: range, all_streams: int, bf16: bool
) -> Step:
    """A function that advances `state` by one step.

    It takes this rank's uint8 images `(n, c, h, w)`, labels `(n,)` and whether this rank wants to stop, and
    returns the step's global means and whether any rank wants to stop: one collective shares both. A step whose means
    or gradients are not finite changes nothing but its number and `state.health`, on every rank alike.
    """
    weight = next(state.generator.parameters())
    device, dtype = weight.device, weight.dtype
    world, rows = world_size(), training.batch // all_streams
    scale = world / training.batch
    augmentation = Augmentation(training, spec, streams, rows // training.accumulate)
    recipe = Objective(
        training.loss, training.label_smoothing, training.penalty_method,
        rows_apart=rows_together(spec) == 1, compiled=training.compile,
    )  # fmt: skip
    networks = [network for network in (state.generator, state.discriminator, state.encoder) if network is not None]
    buffers = [buffer for network in (*networks, state.ema) for buffer in network.buffers()]
    objective = _distributed(AdversarialObjective(state.generator, state.discriminator, recipe, state.encoder))

    def autocast() -> AbstractContextManager:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)

    def parts(tensor: Tensor) -> list[Tensor]:
        """Of this rank's rows, on its device: each an equal share of every stream's."""
        return _parts(tensor.to(device, non_blocking=True), len(streams), training.accumulate)

    def noise_of_layers() -> Sequence[tuple[Tensor, ...]]:
        """Of each part; empty where the generator takes none."""
        drawn = [draw_noise(spec, rows, training.seed, state.step, "noise of layers", stream) for stream in streams]
        by_layer = [parts(torch.cat(layer).to(dtype)) for layer in zip(*drawn, strict=True)]
        return list(zip(*by_layer, strict=True)) or [()] * training.accumulate

    def step(images: Tensor, labels: Tensor, stop: bool) -> tuple[dict[str, float], bool]:
        seen = state.step * training.batch
        rate = _set_adam(state, training, seen)
        before = [buffer.clone() for buffer in buffers]
        weights = lazily(_penalty_weights(training, seen), state.step, training.penalty_every)
        p = augmentation.strength(state.strength, seen)
        real = [part.to(dtype).div_(127.5).sub_(1) for part in parts(images)]
        classes_of: Sequence[Tensor | None] = parts(labels) if spec.classes else [None] * training.accumulate
        drawn = [latents(rows, spec.z_dim, training.seed, state.step, "noise", stream) for stream in streams]
        z = parts(torch.cat(drawn).to(dtype))
        mix: Sequence[Tensor | None] = [None] * training.accumulate
        if weights.gp > 0:
            drawn = [uniforms(rows, training.seed, state.step, "interpolation", stream) for stream in streams]
            mix = parts(torch.cat(drawn))
        views = [augmentation.views(state.step, part, p) for part in range(training.accumulate)]

        if spec.spectral_norm != "none":
            for network in (state.generator, state.discriminator, state.ema):
                power_iteration(network)
        given = zip(z, real, classes_of, mix, views, noise_of_layers(), strict=True)
        inputs = [(latent, x, y, scale, weights, *rest) for latent, x, y, *rest in given]
        sums = _backward(objective, inputs, autocast)
        norms = _gradient_norms(state)
        shared = torch.cat([sums, norms.to(sums.dtype) * (training.batch / world), sums.new_tensor([float(stop)])])
        if world > 1:
            dist.all_reduce(shared)
        means = (shared[:-1].double() / training.batch).tolist()
        finite = all(map(math.isfinite, means))
        if finite:
            for optimizer in (state.optimizer_g, state.optimizer_d):
                optimizer.step()
            update_ema(state.ema, state.generator, _ema_decay(training, seen))
            if state.encoder is not None and state.encoder_ema is not None:
                update_ema(state.encoder_ema, state.encoder, _ema_decay(training, seen))
        else:  # averages of a batch are in there
            for buffer, kept in zip(buffers, before, strict=True):
                buffer.copy_(kept)
        for optimizer in (state.optimizer_g, state.optimizer_d):
            optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.health = state.health.after(finite)

        figures = dict(zip((*SUMS, *NORMS), means, strict=True)) | {"learning_rate": rate}
        if finite:
            state.strength = augmentation.after(state.strength, figures["sign_real"])
        if training.augment == "ada":
            figures["augment_p"] = p
        for penalty in ("r1", "r2", "gp"):
            if not getattr(weights, penalty):
                del figures[penalty]
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


def _parts(tensor: Tensor, streams: int, count: int) -> list[Tensor]:
    """`count` equal shares of the rows, each with as many of every stream, whose rows follow one another."""
    if count == 1:
        return [tensor]
    pieces = tensor.split(len(tensor) // streams // count)
    return [torch.cat(pieces[part::count]) for part in range(count)]


def _backward(objective: nn.Module, inputs: Sequence[tuple], autocast: Callable) -> Tensor:
    """Backward of each part in turn; the ranks add up their gradients once, with the last. Returns the parts' sums."""
    # Named, so that no gradient goes back through the views to images that nobody asked about.
    sums, weights = [], list(objective.parameters())
    for index, given in enumerate(inputs):
        last = index == len(inputs) - 1
        with nullcontext() if last or not isinstance(objective, DistributedDataParallel) else objective.no_sync():
            with autocast():
                total, of_part = objective(*given)
            total.backward(inputs=weights)
        sums.append(of_part)
    return torch.stack(sums).sum(0)


def _penalty_weights(training: Training, images: int) -> Weights:
    return Weights(value_at(training.r1, images), value_at(training.r2, images), value_at(training.gp, images))


def _gradient_norms(state: TrainState) -> Tensor:
    """Of the whole batch's gradients `(2,)`: every rank holds the same ones by now."""
    each = (state.optimizer_g, state.optimizer_d)
    gradients = [
        [parameter.grad for group in one.param_groups for parameter in group["params"] if parameter.grad is not None]
        for one in each
    ]
    return torch.stack([torch.nn.utils.get_total_norm(some) for some in gradients])


def _set_adam(state: TrainState, training: Training, images: int) -> float:
    """Returns the learning rate."""
    rate = value_at(training.learning_rate, images) * state.health.rate
    for optimizer in (state.optimizer_g, state.optimizer_d):
        for group in optimizer.param_groups:
            group["lr"] = rate
            group["betas"] = (training.beta1, value_at(training.beta2, images))
    return rate


def _ema_decay(training: Training, images: int) -> float:
    """A schedule ramps up as it says, and not otherwise."""
    ramp = {"ramp": math.inf} if isinstance(training.ema_half_life, Schedule) else {}
    return ema_decay(training.batch, images + training.batch, value_at(training.ema_half_life, images), **ramp)
