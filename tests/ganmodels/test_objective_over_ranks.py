"""DDP's gradients at any world size are those of the plain mean over the full batch, written out here."""

from collections.abc import Iterable
from itertools import product

import numpy as np
import pytest
import torch
from small_networks import small, well_mixed, well_mixed_encoder
from torch import nn
from torch.nn.functional import logsigmoid
from torch.nn.parallel import DistributedDataParallel

from ganmodels.losses import LOSSES
from ganmodels.networks import FAMILIES, rows_together
from ganmodels.objective import AdversarialObjective, Objective
from ganmodels.penalties import METHODS, Weights, lazily
from ganmodels.randomness import generator as keyed
from ganmodels.randomness import latents, uniforms
from pipeline.shards.order import streams_of

STREAMS, ROWS = 8, 2  # over three ranks: 4, 6 and 6 rows
BATCH = STREAMS * ROWS
EVERY = 4
PENALTIES = {"none": Weights(), "r1": Weights(r1=0.7), "r2": Weights(r2=0.3), "gp": Weights(gp=0.2)}
KINDS = [*FAMILIES, "bigan"]
TURNS = [("none", "exact"), *product(["r1", "r2", "gp"], METHODS)]

Values = dict[str, np.ndarray]


def networks(kind: str) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """Generator, discriminator and any encoder in float64, with weights so large that every term of a loss is felt."""
    if kind == "bigan":
        spec = small("resnet", classes=3, z_dim=5, bigan=True)
        return *well_mixed(spec), well_mixed_encoder(spec)
    return *well_mixed(small(kind, classes=3, z_dim=5)), None


def rows_of(streams: Iterable[int]) -> tuple[torch.Tensor, ...]:
    """Noise, images, labels and places between real and fake of these streams."""
    z = [latents(ROWS, 5, 0, "noise", stream) for stream in streams]
    real = [torch.rand(ROWS, 1, 16, 16, generator=keyed(0, "real", stream)) for stream in streams]
    labels = [torch.randint(3, (ROWS,), generator=keyed(0, "label", stream)) for stream in streams]
    mix = [uniforms(ROWS, 0, "mix", stream) for stream in streams]
    return torch.cat(z).double(), torch.cat(real).double() * 2 - 1, torch.cat(labels), torch.cat(mix).double()


def gradients(network: nn.Module, prefix: str) -> Values:
    """And then none: the next turn starts afresh."""
    values = {f"{prefix} {name}": weight.grad.numpy().copy() for name, weight in network.named_parameters()}
    network.zero_grad(set_to_none=True)
    return values


def statistics(network: nn.Module, prefix: str) -> Values:
    return {f"{prefix} {name}": value.numpy().copy() for name, value in network.named_buffers()}


def distributed(objective: nn.Module, world: int) -> nn.Module:
    """As pipeline/training/step.py wraps it."""
    if world == 1:
        return objective
    return DistributedDataParallel(
        objective, find_unused_parameters=True, forward_sync_buffers=False, gradient_as_bucket_view=True
    )


def on_a_rank(rank: int, world: int) -> tuple[Values, Values]:
    """Every step there is; what all ranks share, and this rank's own sums."""
    z, real, labels, mix = rows_of(streams_of(rank, world, STREAMS))
    scale, shared, own = world / BATCH, {}, {}
    for kind, loss in product(KINDS, LOSSES):
        generator, discriminator, encoder = networks(kind)
        apart = rows_together(discriminator.spec) == 1
        wrapped = {
            method: distributed(
                AdversarialObjective(generator, discriminator, Objective(loss, 0, method, apart), encoder), world
            )
            for method in METHODS
        }
        for penalty, method in TURNS:
            weights, name = lazily(PENALTIES[penalty], 0, EVERY), f"{kind} {loss} {penalty} {method}"
            total, sums = wrapped[method](z, real, labels, scale, weights, mix)
            total.backward()
            for side, network in (("G", generator), ("D", discriminator), ("E", encoder)):
                shared |= gradients(network, f"{name} {side}") if network else {}
            if penalty == "none":
                shared |= statistics(generator, name)
            own[name] = sums.numpy()
    return shared, own


def written_out(loss: str, real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The generator's loss, the discriminator's, and the generator's and encoder's, over the full batch."""
    told_apart = -logsigmoid(real).mean() - logsigmoid(-fake).mean()
    against = real - fake.mean(), fake - real.mean()
    paired, against_the_mean = -logsigmoid(fake - real).mean(), -logsigmoid(against[1]) - logsigmoid(-against[0])
    return {
        "saturating": (logsigmoid(-fake).mean(), told_apart, -told_apart),
        "non_saturating": (
            -logsigmoid(fake).mean(), told_apart, -logsigmoid(fake).mean() - logsigmoid(-real).mean(),
        ),
        "least_squares": (
            ((fake - 1) ** 2).mean() / 2,
            ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2,
            ((fake - 1) ** 2).mean() / 2 + (real**2).mean() / 2,
        ),
        "hinge": (
            -fake.mean(), (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(), real.mean() - fake.mean(),
        ),
        "wasserstein": (-fake.mean(), fake.mean() - real.mean(), real.mean() - fake.mean()),
        "relativistic": (paired, -logsigmoid(real - fake).mean(), paired),
        "relativistic_average": (
            against_the_mean.mean(),
            -logsigmoid(against[0]).mean() - logsigmoid(-against[1]).mean(),
            against_the_mean.mean(),
        ),
    }[loss]  # fmt: skip


def on_the_full_batch() -> tuple[Values, Values]:
    """Like `on_a_rank`, written out: the generator's turn, then the discriminator's on the same fakes; every penalty by
    double backward."""
    z, real, labels, mix = rows_of(range(STREAMS))
    shared, own = {}, {}
    for kind, loss in product(KINDS, LOSSES):
        generator, discriminator, encoder = networks(kind)
        fake = generator(z, labels)
        # What the discriminator sees: images and labels, and latents where there is an encoder.
        with_real, with_fake = ((), ()) if encoder is None else ((encoder(real),), (z,))
        logits = discriminator(real, labels, *with_real), discriminator(fake, labels, *with_fake)
        loss_g = written_out(loss, *logits)[0 if encoder is None else 2]
        loss_g.backward()
        discriminator.zero_grad(set_to_none=True)
        moved = gradients(generator, "G") | (gradients(encoder, "E") if encoder else {})
        shared |= statistics(generator, f"{kind} {loss} none exact")
        with_real = [encoded.detach() for encoded in with_real]
        fake, share = fake.detach(), mix[:, None, None, None]
        between = [share[:, 0, 0] * of_real + (1 - share[:, 0, 0]) * of_fake
                   for of_real, of_fake in zip(with_real, with_fake, strict=True)]  # fmt: skip
        at = {
            "r1": [real, *with_real], "r2": [fake, *with_fake], "gp": [share * real + (1 - share) * fake, *between],
        }  # fmt: skip
        for penalty, method in TURNS:
            on_real, on_fake = discriminator(real, labels, *with_real), discriminator(fake, labels, *with_fake)
            loss_d = written_out(loss, on_real, on_fake)[1]
            nothing = torch.zeros((), dtype=torch.float64)
            r1 = r2 = gp = nothing
            if penalty != "none":
                images, *beside = place = [each.clone().requires_grad_() for each in at[penalty]]
                slopes = torch.autograd.grad(discriminator(images, labels, *beside).sum(), place, create_graph=True)
                squares = sum(slope.square().flatten(1).sum(1) for slope in slopes)
                r1, r2 = (squares.sum() if penalty == key else nothing for key in ("r1", "r2"))
                gp = (squares.sqrt() - 1).square().sum() if penalty == "gp" else nothing
                loss_d = loss_d + EVERY * (0.7 / 2 * r1 + 0.3 / 2 * r2 + 0.2 * gp) / BATCH
            loss_d.backward()
            name = f"{kind} {loss} {penalty} {method}"
            shared |= gradients(discriminator, f"{name} D") | {f"{name} {key}": each for key, each in moved.items()}
            sums = [loss_g * BATCH, loss_d * BATCH, on_real.sum(), on_fake.sum(), on_real.sign().sum(), r1, r2, gp]
            own[name] = torch.stack(sums).detach().numpy()
    return shared, own


@pytest.fixture(scope="module")
def full_batch() -> tuple[Values, Values]:
    return on_the_full_batch()


@pytest.fixture(scope="module")
def one_process() -> tuple[Values, Values]:
    return on_a_rank(0, 1)


def assert_equal(actual: Values, expected: Values, within: float) -> None:
    """To a share of each array's largest value, or of one."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=within * scale, err_msg=name)


def of_method(values: Values, method: str) -> Values:
    return {name: value for name, value in values.items() if (METHODS[1] in name) == (method == METHODS[1])}


def test_one_process_gives_what_is_written_out(one_process, full_batch):
    for actual, expected in zip(one_process, full_batch, strict=True):
        assert_equal(of_method(actual, "exact"), of_method(expected, "exact"), 1e-12)
        assert_equal(of_method(actual, "finite_difference"), of_method(expected, "finite_difference"), 1e-8)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("world", [pytest.param(2, marks=SLOW), 3, pytest.param(4, marks=SLOW)])
def test_gradients_are_those_of_the_full_batch(ranks, one_process, world):
    """For every objective, penalty, way to take it, and family."""
    shared, own = one_process
    answers = ranks.run(world, on_a_rank)
    for answer, _ in answers:
        assert_equal(answer, shared, 1e-10)
    assert_equal({name: sum(answer[name] for _, answer in answers) for name in own}, own, 1e-10)


def test_every_part_of_the_compared_gradients_is_large(full_batch):
    """Else 1e-10 would say nothing: gradients, penalties and the penalties' part of the gradients."""
    shared, own = full_batch
    for kind, loss in product(KINDS, LOSSES):
        name = f"{kind} {loss}"

        def largest(side: str, penalty: str = "none", but_for: str | None = None, name: str = name) -> float:
            prefix = f"{name} {penalty} exact {side} "
            parts = {key: value for key, value in shared.items() if key.startswith(prefix)}
            other = {key: shared[key.replace(f" {penalty} ", f" {but_for} ")] if but_for else 0.0 for key in parts}
            return max(np.abs(value - other[key]).max() for key, value in parts.items())

        for penalty in ("r1", "r2", "gp"):
            assert own[f"{name} {penalty} exact"][5:].max() > 0.1, (name, penalty)
            assert largest("D", penalty, "none") > 1e-3, (name, penalty)
        assert min(map(largest, ["G", "D"] + ["E"] * (kind == "bigan"))) > 1e-3, name
