"""A step in parts, by schedules, and on one rank or several."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import small

from ganmodels.ada.strength import Heuristic, Strength, adjusted
from ganmodels.losses import LOSSES
from ganmodels.randomness import generator as keyed
from ganmodels.randomness import latents
from ganmodels.spec import NetworkSpec
from ganmodels.spectral import power_iteration
from ganmodels.stylegan2 import draw_noise
from pipeline.config import Training
from pipeline.shards.order import streams_of
from pipeline.training.state import TrainState, fresh_state
from pipeline.training.step import Step, make_step

SPEC = NetworkSpec("dcgan", 16, 1, classes=3, z_dim=5, width=2, max_width=4)
STREAMS, BATCH = 8, 16

Values = dict[str, np.ndarray]


pytestmark = pytest.mark.usefixtures("one_thread")


def stepping(
    training: Training, rank: int = 0, world: int = 1, spec: NetworkSpec = SPEC, dtype: torch.dtype = torch.float64
) -> tuple[TrainState, Step]:
    """Float64 unless told, so that ranks differ by rounding alone."""
    state = fresh_state(spec, training, torch.device("cpu"))
    for network in (state.generator, state.discriminator, state.ema):
        network.to(dtype)
    streams = streams_of(rank, world, STREAMS)
    return state, make_step(state, training, spec=spec, streams=streams, all_streams=STREAMS, bf16=False)


def rows_of(step: int, rank: int = 0, world: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of this rank's streams, two each."""
    draws = [keyed(0, step, "data", stream) for stream in streams_of(rank, world, STREAMS)]
    images = [torch.randint(256, (2, 1, 16, 16), generator=draw, dtype=torch.uint8) for draw in draws]
    return torch.cat(images), torch.cat([torch.randint(3, (2,), generator=draw) for draw in draws])


def gradients_of_a_step(training: Training, spec: NetworkSpec = SPEC) -> tuple[TrainState, list[torch.Tensor]]:
    """As the optimizers find them."""
    state, step = stepping(training, spec=spec)
    for layer in getattr(state.generator, "layers", ()):
        layer.strength.data.fill_(0.3)  # of StyleGAN2's noise, which has none at first
    before, found = copy.deepcopy(state), []
    for optimizer in (state.optimizer_g, state.optimizer_d):
        optimizer.register_step_pre_hook(lambda optimizer, *_: found.extend(
            weight.grad.clone() for group in optimizer.param_groups for weight in group["params"]
        ))  # fmt: skip
    step(*rows_of(0), False)
    return before, found


@pytest.mark.parametrize("loss", ["non_saturating", "relativistic_average"])
def test_a_step_in_parts_has_the_mean_of_their_gradients(loss):
    """Each part is a row of every stream, and a batch of its own to batch norm and to the average logit."""
    state, found = gradients_of_a_step(Training(batch=BATCH, accumulate=2, loss=loss, r1=0))
    images, labels = rows_of(0)
    z = torch.cat([latents(2, 5, 0, 0, "noise", stream) for stream in range(STREAMS)]).double()
    expected: list[torch.Tensor] = [torch.zeros_like(gradient) for gradient in found]
    for part in (0, 1):
        real, of, noise = images[part::2].double() / 127.5 - 1, labels[part::2], z[part::2]
        fake = state.generator(noise, of)
        losses = LOSSES[loss][1](state.discriminator(real, of), state.discriminator(fake, of)).mean()
        parts = list(torch.autograd.grad(losses, list(state.generator.parameters())))
        logits = state.discriminator(real, of), state.discriminator(fake.detach(), of)
        losses = LOSSES[loss][0](*logits).mean()
        parts += torch.autograd.grad(losses, list(state.discriminator.parameters()))
        expected = [sum_ + gradient / 2 for sum_, gradient in zip(expected, parts, strict=True)]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    whole = gradients_of_a_step(Training(batch=BATCH, loss=loss, r1=0))[1]
    assert any((one - other).abs().max() > 1e-8 for one, other in zip(whole, found, strict=True))


def test_in_training_each_image_has_noise_of_its_own_in_each_layer():
    """Split between the parts as the latents are, and drawn a stream at a time."""
    spec = small("stylegan2", classes=3, z_dim=5, group=1)
    state, found = gradients_of_a_step(Training(batch=BATCH, accumulate=2, r1=0), spec)
    labels = rows_of(0)[1]
    z = torch.cat([latents(2, 5, 0, 0, "noise", stream) for stream in range(STREAMS)]).double()
    drawn = [draw_noise(spec, 2, 0, 0, "noise of layers", stream) for stream in range(STREAMS)]
    noise = [torch.cat(layer).double() for layer in zip(*drawn, strict=True)]
    expected = [torch.zeros_like(weight) for weight in state.generator.parameters()]
    for part in (0, 1):
        of = labels[part::2]
        fake = state.generator(z[part::2], of, noise=[layer[part::2] for layer in noise])
        loss = LOSSES["non_saturating"][1](None, state.discriminator(fake, of)).mean()
        parts = torch.autograd.grad(loss, list(state.generator.parameters()))
        expected = [sum_ + gradient / 2 for sum_, gradient in zip(expected, parts, strict=True)]
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-10, atol=1e-12)
    strengths = [name.endswith("strength") for name, _ in state.generator.named_parameters()]
    assert all(gradient != 0 for gradient, there in zip(expected, strengths, strict=True) if there)


def way(start: float, end: float, shape: str = "cosine") -> dict:
    return {"from": start, "to": end, "over": 4 * BATCH, "shape": shape}


def test_schedules_set_rate_beta2_penalties_and_average_by_images_seen():
    recipe = {
        "r1": way(8.0, 4.0, "ramp"),
        "r2": way(0.0, 1.0),
        "penalty_every": 1,
        "ema_half_life": way(0, 4 * BATCH, "ramp"),
    }
    training = Training.model_validate(
        {"batch": BATCH, "learning_rate": way(2e-4, 5e-5), "beta2": way(0.9, 0.99), **recipe}
    )
    state, step = stepping(training)
    seen = []
    for index in range(6):
        before = state.ema.input.weight.clone()
        figures, _ = step(*rows_of(index), False)
        groups = [optimizer.param_groups[0] for optimizer in (state.optimizer_g, state.optimizer_d)]
        assert groups[0]["lr"] == groups[1]["lr"] and groups[0]["betas"] == groups[1]["betas"]
        # average = decay x before + (1 - decay) x weights
        kept = (
            (state.ema.input.weight - state.generator.input.weight) / (before - state.generator.input.weight)
        ).mean()
        seen.append((groups[0]["lr"], groups[0]["betas"][1], "r2" in figures, kept.item()))
    waves = [(1 + math.cos(math.pi * share)) / 2 for share in (0, 1 / 4, 1 / 2, 3 / 4, 1, 1)]
    assert [lr for lr, *_ in seen] == pytest.approx([5e-5 + 1.5e-4 * wave for wave in waves], rel=1e-12)
    assert [beta2 for _, beta2, *_ in seen] == pytest.approx([0.99 - 0.09 * wave for wave in waves], rel=1e-12)
    assert [charged for _, _, charged, _ in seen] == [False] + [True] * 5  # at nothing it is not taken
    decays = [0] + [0.5 ** (1 / step) for step in (1, 2, 3, 4, 4)]  # a schedule has no ramp-up but its own
    assert [kept for *_, kept in seen] == pytest.approx(decays, rel=1e-6, abs=1e-12)


def test_a_scheduled_gamma_weighs_the_penalty():
    """The loss less the same without a penalty is gamma / 2 x R1, at each point of the way."""

    def at_step(index: int, gamma: object) -> dict[str, float]:
        state, step = stepping(Training.model_validate({"batch": BATCH, "r1": gamma, "penalty_every": 1}))
        state.step = index
        return step(*rows_of(index), False)[0]

    for index, gamma in ((0, 8.0), (1, 7.0), (4, 4.0), (9, 4.0)):
        with_it, without = at_step(index, way(8.0, 4.0, "ramp")), at_step(index, 0.0)
        assert with_it["loss_d"] - without["loss_d"] == pytest.approx(gamma / 2 * with_it["r1"], rel=1e-9)


def test_p_follows_the_signs_of_real_logits_and_is_kept_with_the_state():
    training = Training(batch=BATCH, augment="ada", augment_target=0.0, augment_images=640)
    state, step = stepping(training)
    expected = Strength()
    for index in range(40):
        figures = step(*rows_of(index), False)[0]
        assert figures["augment_p"] == expected.p
        expected = adjusted(expected, Heuristic(0.0, 640), figures["sign_real"] * BATCH, BATCH)
        assert state.strength == expected
    assert expected.p > 0
    again, _ = stepping(training)
    again.load(state.snapshot().to_files(), json.loads(json.dumps(state.to_json())))
    assert again.strength == expected


@pytest.mark.parametrize("recipe", [{"augment": "ada", "augment_p": 1.0}, {"augment": "diffaugment"}])
def test_an_augmentation_changes_what_is_learnt_and_none_is_no_augmentation(recipe):
    plain = gradients_of_a_step(Training(batch=BATCH))[1]
    changed = gradients_of_a_step(Training.model_validate({"batch": BATCH, **recipe}))[1]
    assert all(not one.equal(other) for one, other in zip(plain[:1], changed[:1], strict=True))
    at_zero = gradients_of_a_step(Training(batch=BATCH, augment="ada", augment_p=0.0))[1]
    assert all(one.equal(other) for one, other in zip(plain, at_zero, strict=True))


def test_spectral_norm_turns_once_a_step():
    spec = NetworkSpec("resnet", 16, 1, classes=3, z_dim=5, width=2, max_width=4, spectral_norm="both")
    state, step = stepping(Training(batch=BATCH), spec=spec)
    expected = copy.deepcopy(state)
    step(*rows_of(0), False)
    for name in ("generator", "discriminator"):
        power_iteration(getattr(expected, name))
        turned, found = getattr(expected, name).state_dict(), getattr(state, name).state_dict()
        vectors = [key for key in found if key.endswith(".u")]
        assert vectors and all(found[key].equal(turned[key]) for key in vectors)


SCHEDULED = {
    "batch": BATCH, "loss": "relativistic_average", "penalty_every": 4,
    "r1": {"from": 1.0, "to": 0.1, "over": 1600}, "r2": 0.5,
    "learning_rate": {"from": 1e-3, "to": 2e-4, "over": 1600}, "beta2": {"from": 0.9, "to": 0.99, "over": 1600},
    "ema_half_life": {"from": 0, "to": 500, "over": 1600},
}  # fmt: skip
IN_PARTS = {
    "batch": BATCH, "accumulate": 2, "r1": 1.0, "gp": 0.3, "penalty_every": 2, "loss": "relativistic_average",
    "augment": "ada", "augment_p": 0.6,
}  # fmt: skip


DCGAN = SPEC.to_dict()
RESNET = small("resnet", classes=3, z_dim=5, spectral_norm="both").to_dict()
R3GAN = small("r3gan", classes=3, z_dim=5, blocks=1).to_dict()
STYLEGAN2 = small("stylegan2", classes=3, z_dim=5).to_dict()
FOLLOWING = {
    "batch": BATCH, "r1": 1.0, "augment": "ada", "augment_target": 0.0, "augment_images": 3200, "learning_rate": 2e-3,
    "seed": 1,  # with 0 some rows come to be nearly alike, where a minibatch standard deviation magnifies rounding
}  # fmt: skip
PAIRED = {"batch": BATCH, "loss": "relativistic", "r1": 0.5, "r2": 0.5, "penalty_every": 1}


def on_a_rank(
    rank: int, world: int, spec: dict[str, Any], recipe: dict[str, Any], steps: int, double: bool = True
) -> tuple[Values, list[dict[str, float]]]:
    """The weights after so many steps, and each step's figures."""
    dtype = torch.float64 if double else torch.float32
    state, step = stepping(Training.model_validate(recipe), rank, world, NetworkSpec.from_dict(spec), dtype)
    figures = [step(*rows_of(index, rank, world), False)[0] for index in range(steps)]
    weights: Values = {}
    for side, network in (("G", state.generator), ("D", state.discriminator), ("average", state.ema)):
        weights |= {f"{side} {name}": value.numpy().copy() for name, value in network.state_dict().items()}
    return weights, figures


@pytest.mark.parametrize(
    ("world", "spec", "recipe", "steps"),
    [
        pytest.param(2, DCGAN, SCHEDULED, 200, id="dcgan"),
        pytest.param(3, DCGAN, IN_PARTS, 5, id="dcgan-in-parts"),
        pytest.param(2, RESNET, SCHEDULED, 200, id="resnet", marks=pytest.mark.slow),
        pytest.param(2, R3GAN, PAIRED, 200, id="r3gan"),
        pytest.param(2, STYLEGAN2, FOLLOWING, 200, id="stylegan2", marks=pytest.mark.slow),
    ],
)
def test_one_worker_and_more_train_the_same_weights(ranks, world, spec, recipe, steps):
    weights, figures = on_a_rank(0, 1, spec, recipe, steps)
    assert figures[-1].get("augment_p", 1) > 0
    begun, _ = on_a_rank(0, 1, spec, recipe, 0)
    assert max(np.abs(weights[name] - begun[name]).max() for name in weights) > 1e-3
    for others, their_figures in ranks.run(world, on_a_rank, spec, recipe, steps):
        for name, value in weights.items():
            np.testing.assert_allclose(others[name], value, rtol=0, atol=1e-8, err_msg=name)
        for ours, theirs in zip(figures, their_figures, strict=True):
            assert theirs == pytest.approx(ours, abs=1e-8)


@pytest.mark.parametrize(
    ("spec", "recipe"),
    [(DCGAN, SCHEDULED), (RESNET, SCHEDULED), (R3GAN, PAIRED), (STYLEGAN2, FOLLOWING)],
    ids=["dcgan", "resnet", "r3gan", "stylegan2"],
)
def test_in_float32_one_worker_and_more_start_alike(ranks, spec, recipe):
    """After that, rounding grows to chaos. The losses, not the logits: relativistic ones leave the last bias to
    rounding, which Adam makes steps of. That the same samples meet is in test_exactness."""
    _, figures = on_a_rank(0, 1, spec, recipe, 10, double=False)
    for _, their_figures in ranks.run(3, on_a_rank, spec, recipe, 10, False):
        for ours, theirs in zip(figures, their_figures, strict=True):
            for name in ("loss_g", "loss_d"):
                assert theirs[name] == pytest.approx(ours[name], abs=1e-4), name
