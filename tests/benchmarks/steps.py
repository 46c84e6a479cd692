"""The two sides of a race between training steps: ours, and the plainest loop in torch."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from gpu_steps import noise_images, stepping
from plain_networks import plain
from torch.nn import functional as F

from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.training.memory import keep_memory
from pipeline.training.state import fresh_state

BATCH = 64


def ours(
    spec: NetworkSpec, recipe: dict[str, Any], bf16: bool = False, channels_last: bool = True
) -> Callable[[], dict[str, float]]:
    """A step of a run; its figures. With `channels_last` off, every call for it is one for torch's default."""
    keep_memory()
    layout = nullcontext() if channels_last else patch.object(torch, "channels_last", torch.contiguous_format)
    with layout:
        _, step = stepping(spec, Training.model_validate({"batch": BATCH, **recipe}), torch.device("cpu"), bf16=bf16)
    images, labels = noise_images(spec, BATCH)

    def act() -> dict[str, float]:
        with layout:
            return step(images, labels, False)[0]

    return act


def plainest(spec: NetworkSpec, recipe: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """The loop that torch's own example has, with its networks in contiguous float32: the discriminator's turn, then
    the generator's on fakes of its own; `recipe` may have `loss` relativistic, `r1`, `r2` and `penalty_every`."""
    training = Training.model_validate({"batch": BATCH, **recipe})
    state = fresh_state(spec, training, torch.device("cpu"))
    generator, discriminator = plain(spec, (state.generator, state.discriminator))
    average = copy.deepcopy(generator)
    optimizer_g, optimizer_d = (
        torch.optim.Adam(network.parameters(), lr=5e-4, betas=(0.0, 0.99)) for network in (generator, discriminator)
    )
    images, _ = noise_images(spec, BATCH)
    pairs, done = training.loss == "relativistic", 0

    def act() -> dict[str, float]:
        nonlocal done
        real = images.float() / 127.5 - 1
        charged = done % training.penalty_every == 0
        discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, spec.z_dim))
        real.requires_grad_(charged and training.r1 > 0)
        fake.requires_grad_(charged and training.r2 > 0)
        on_real, on_fake = discriminator(real), discriminator(fake)
        rows = F.softplus(on_fake - on_real) if pairs else F.softplus(-on_real) + F.softplus(on_fake)
        for gamma, x, logits in ((training.r1, real, on_real), (training.r2, fake, on_fake)):
            if charged and gamma:
                (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
                rows = rows + gamma / 2 * training.penalty_every * slope.square().sum((1, 2, 3))
        loss_d = rows.mean()
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()

        discriminator.requires_grad_(False)
        on_fake = discriminator(generator(torch.randn(BATCH, spec.z_dim)))
        loss_g = F.softplus((discriminator(real.detach()) if pairs else 0) - on_fake).mean()
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), generator.parameters(), strict=True):
                mean.lerp_(weight, 0.01)
        done += 1
        return {"loss_g": loss_g.item(), "loss_d": loss_d.item()}

    return act
