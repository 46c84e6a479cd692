"""An encoder that learns along: it finds the latents that images come from, the same on any number of ranks."""

import numpy as np
import pytest
import torch

from ganmodels.randomness import generator as keyed
from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.shards.order import streams_of
from pipeline.training.state import TrainState, fresh_state
from pipeline.training.step import Step, make_step

STREAMS, BATCH = 8, 32
SPEC = NetworkSpec("resnet", 16, 1, z_dim=2, width=8, max_width=32, bigan=True)

Values = dict[str, np.ndarray]

pytestmark = pytest.mark.usefixtures("one_thread")


def two_halves(count: int, *key: int | str) -> torch.Tensor:
    """Images whose left and right half have a grey level each, uint8 `(count, 1, 16, 16)`."""
    levels = torch.randint(256, (count, 2), generator=keyed(*key), dtype=torch.uint8)
    return levels.repeat_interleave(8, dim=1)[:, None, None].expand(-1, 1, 16, 16)


def stepping(training: Training, streams: range, double: bool = False) -> tuple[TrainState, Step]:
    state = fresh_state(SPEC, training, torch.device("cpu"))
    if double:  # so that ranks differ by rounding alone
        for network in networks_of(state).values():
            network.double()
    return state, make_step(state, training, spec=SPEC, streams=streams, all_streams=STREAMS, bf16=False)


def networks_of(state: TrainState) -> dict[str, torch.nn.Module]:
    assert state.encoder is not None and state.encoder_ema is not None
    return {
        "G": state.generator, "D": state.discriminator, "E": state.encoder,
        "average of G": state.ema, "average of E": state.encoder_ema,
    }  # fmt: skip


def share_that_is_closer(state: TrainState, images: torch.Tensor) -> float:
    """How many of the other images are closer to G(E(x)) than x is: half of them by chance, none at best."""
    assert state.encoder_ema is not None
    with torch.inference_mode():
        real = images.float() / 127.5 - 1
        distances = torch.cdist(state.ema(state.encoder_ema(real)).flatten(1), real.flatten(1))
    return (distances < distances.diag()[:, None]).double().mean().item()


def test_what_an_image_is_mapped_to_gives_the_image_again():
    """At 300 steps 0.02, and with relativistic pairs in bf16 at 400."""
    state, step = stepping(Training(batch=BATCH, r1=0.1, r2=0.1, learning_rate=2e-3), range(STREAMS))
    unseen = two_halves(256, "unseen")
    assert share_that_is_closer(state, unseen) > 0.3
    for index in range(300):
        step(two_halves(BATCH, "seen", index), torch.zeros(BATCH, dtype=torch.int64), False)
    assert share_that_is_closer(state, unseen) < 0.1


IN_PARTS = {
    "batch": BATCH, "accumulate": 2, "r1": 1.0, "gp": 0.3, "penalty_every": 2, "loss": "relativistic_average",
    "augment": "ada", "augment_p": 0.6,
}  # fmt: skip
PLAIN = {"batch": BATCH, "r1": 0.5, "r2": 0.2, "penalty_every": 2}


def on_a_rank(rank: int, world: int, recipe: dict, steps: int) -> tuple[Values, list[dict[str, float]]]:
    """The weights after so many steps, and each step's figures."""
    streams = streams_of(rank, world, STREAMS)
    state, step = stepping(Training.model_validate(recipe), streams, double=True)
    rows, figures = BATCH // STREAMS, []
    for index in range(steps):
        images = torch.cat([two_halves(rows, "seen", index, stream) for stream in streams])
        figures.append(step(images, torch.zeros(len(images), dtype=torch.int64), False)[0])
    weights = {
        f"{side} {name}": value.numpy().copy()
        for side, network in networks_of(state).items()
        for name, value in network.state_dict().items()
    }
    return weights, figures


@pytest.mark.parametrize(("world", "recipe", "steps"), [(2, PLAIN, 15), (3, IN_PARTS, 5)])
def test_one_worker_and_more_train_the_same_weights(ranks, world, recipe, steps):
    weights, figures = on_a_rank(0, 1, recipe, steps)
    begun, _ = on_a_rank(0, 1, recipe, 0)
    for side in ("G", "D", "E", "average of E"):
        moved = [np.abs(weights[name] - begun[name]).max() for name in weights if name.startswith(f"{side} ")]
        assert max(moved) > 1e-3, side
    for others, their_figures in ranks.run(world, on_a_rank, recipe, steps):
        for name, value in weights.items():
            np.testing.assert_allclose(others[name], value, rtol=0, atol=1e-8, err_msg=name)
        for ours, theirs in zip(figures, their_figures, strict=True):
            assert theirs == pytest.approx(ours, abs=1e-8)
