"""DDP's gradients at any world size are those of the plain mean over the full batch, written out here."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from small_networks import small, well_mixed
from torch import nn
from torch.nn.functional import softplus
from torch.nn.parallel import DistributedDataParallel

from ganmodels.losses import LOSSES
from ganmodels.networks import FAMILIES
from ganmodels.objective import DiscriminatorObjective, GeneratorObjective, Objective
from ganmodels.randomness import generator as keyed
from ganmodels.randomness import latents
from pipeline.shards.order import streams_of

STREAMS, ROWS = 8, 2  # over three ranks: 4, 6 and 6 rows
BATCH = STREAMS * ROWS
R1, R2, EVERY = 0.7, 0.3, 4

Values = dict[str, np.ndarray]


def networks(family: str) -> tuple[nn.Module, nn.Module]:
    """Float64, with weights large enough that every term of a loss is felt."""
    return well_mixed(small(family, classes=3, z_dim=5))


def rows_of(streams: Iterable[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, images and labels of these streams."""
    z = [latents(ROWS, 5, 0, "noise", stream) for stream in streams]
    real = [torch.rand(ROWS, 1, 16, 16, generator=keyed(0, "real", stream)) for stream in streams]
    labels = [torch.randint(3, (ROWS,), generator=keyed(0, "label", stream)) for stream in streams]
    return torch.cat(z).double(), torch.cat(real).double() * 2 - 1, torch.cat(labels)


def gradients(network: nn.Module, prefix: str) -> Values:
    """And then none: the next turn starts afresh."""
    values = {f"{prefix} {name}": weight.grad.numpy().copy() for name, weight in network.named_parameters()}
    network.zero_grad(set_to_none=True)
    return values


def statistics(network: nn.Module) -> Values:
    return {name: value.numpy().copy() for name, value in network.named_buffers()}


def distributed(objective: nn.Module, world: int) -> nn.Module:
    """As pipeline/training/step.py wraps it."""
    if world == 1:
        return objective
    return DistributedDataParallel(
        objective, find_unused_parameters=True, forward_sync_buffers=False, gradient_as_bucket_view=True
    )


def on_a_rank(rank: int, world: int, family: str, loss: str) -> tuple[Values, Values]:
    """Two steps' turns, with the lazy penalties and without; what all ranks share, and this rank's own sums."""
    z, real, labels = rows_of(streams_of(rank, world, STREAMS))
    generator, discriminator = networks(family)
    objective, scale = Objective(loss, R1, R2, EVERY), world / BATCH
    discriminator.requires_grad_(False)
    generator_loss = distributed(GeneratorObjective(generator, discriminator, objective), world)
    discriminator.requires_grad_(True)
    discriminator_loss = distributed(DiscriminatorObjective(discriminator, objective), world)
    shared, own = {}, {}
    for penalise in (True, False):
        discriminator.requires_grad_(False)
        loss_g, fake = generator_loss(z, real, labels, scale)
        loss_g.backward()
        assert all(weight.grad is None for weight in discriminator.parameters())
        discriminator.requires_grad_(True)
        loss_d, sums = discriminator_loss(real, fake, labels, scale, penalise)
        loss_d.backward()
        shared |= gradients(generator, f"G {penalise}") | gradients(discriminator, f"D {penalise}")
        own[f"losses {penalise}"] = torch.stack([loss_g, loss_d]).detach().numpy() / world
        own[f"sums {penalise}"] = sums.numpy()
    return shared | statistics(generator), own


def on_the_full_batch(family: str, loss: str) -> tuple[Values, Values]:
    z, real, labels = rows_of(range(STREAMS))
    generator, discriminator = networks(family)
    shared, own = {}, {}
    for penalise in (True, False):
        fake = generator(z, labels)
        on_real, on_fake = discriminator(real, labels), discriminator(fake, labels)
        loss_g = (softplus(-on_fake) if loss == "non_saturating" else softplus(on_real - on_fake)).mean()
        loss_g.backward()
        discriminator.zero_grad(set_to_none=True)

        real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
        on_real, on_fake = discriminator(real, labels), discriminator(fake, labels)
        paired = softplus(on_fake - on_real)
        loss_d = (softplus(-on_real) + softplus(on_fake) if loss == "non_saturating" else paired).mean()
        slopes = torch.autograd.grad(on_real.sum() + on_fake.sum(), [real, fake], create_graph=True)
        r1, r2 = (slope.square().sum() * penalise for slope in slopes)
        loss_d = loss_d + EVERY * (R1 / 2 * r1 + R2 / 2 * r2) / BATCH
        loss_d.backward()
        shared |= gradients(generator, f"G {penalise}") | gradients(discriminator, f"D {penalise}")
        own[f"losses {penalise}"] = torch.stack([loss_g, loss_d]).detach().numpy()
        own[f"sums {penalise}"] = torch.stack([on_real.sum(), on_fake.sum(), r1, r2]).detach().numpy()
    return shared | statistics(generator), own


def assert_equal(actual: Values, expected: Values) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_full_batch(ranks, world, family, loss):
    shared, own = on_the_full_batch(family, loss)
    answers = ranks.run(world, on_a_rank, family, loss)
    for answer, _ in answers:
        assert_equal(answer, shared)
    assert_equal({name: sum(answer[name] for _, answer in answers) for name in own}, own)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_of_the_compared_gradients_is_large(family):
    """Else 1e-10 would say nothing: gradients, penalties and the penalties' part of the gradients."""
    shared, own = on_the_full_batch(family, "relativistic")

    def largest(side: str, but_for: str = "") -> float:
        parts = [(value, name) for name, value in shared.items() if name.startswith(f"{side} True")]
        return max(
            abs(value - (shared[name.replace("True", but_for)] if but_for else 0)).max() for value, name in parts
        )

    assert own["sums True"][2:].min() > 0.1
    assert min(largest("G"), largest("D"), largest("D", but_for="False")) > 1e-3
