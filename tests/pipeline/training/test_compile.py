"""torch.compile as a recipe's option; that it is part of a run's identity is in tests/pipeline/test_config.py."""

import re
import sys
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from small_networks import small

from ganmodels.networks import FAMILIES
from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.errors import UserError
from pipeline.shards.order import streams_of
from pipeline.training.compiler import check_compiler
from pipeline.training.state import fresh_state
from pipeline.training.step import make_step

SPEC = NetworkSpec("dcgan", 16, 1, z_dim=4, width=2, max_width=2)
BATCH = 8

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def nothing_is_left_compiled():
    """Else what other tests compile would be taken for a second shape, and be compiled another way."""
    yield
    torch._dynamo.reset()


def after_two_steps(r1: float = 1000.0, **recipe: object) -> tuple[list[torch.Tensor], list[dict[str, float]]]:
    training = Training.model_validate({"batch": BATCH, "penalty_every": 1, "r1": r1, **recipe})
    state = fresh_state(SPEC, training, torch.device("cpu"))
    step = make_step(state, training, spec=SPEC, streams=range(BATCH), all_streams=BATCH, bf16=False)
    images = torch.randint(256, (BATCH, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    figures = [step(images, torch.zeros(BATCH, dtype=torch.int64), False)[0] for _ in range(2)]
    return [*state.generator.state_dict().values(), *state.discriminator.state_dict().values()], figures


def test_a_compiled_step_is_the_eager_one_to_float32s_accuracy():
    """With the exact penalty, which would have no gradient through a compiled discriminator."""
    eager, figures = after_two_steps()
    compiled, their_figures = after_two_steps(compile=True)
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(figures, their_figures, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-6) and ours["r1"] > 0
    without, _ = after_two_steps(r1=0.0)
    assert any((one - other).abs().max() > 1e-4 for one, other in zip(eager, without, strict=True))


OPTIONS = {"resnet": {"spectral_norm": "both", "attention": 8, "bigan": True}}


def on_a_rank(rank: int, world: int, family: str, compiled: bool) -> list[np.ndarray]:
    """All weights after a step with penalties and one without, in float64 and with a compiler that keeps torch's own
    arithmetic: ranks, and what is compiled, then differ by rounding alone."""
    spec = small(family, classes=3, z_dim=5, **OPTIONS.get(family, {}))
    training = Training(batch=16, r1=1.0, r2=0.5, gp=0.3, penalty_every=2, loss="relativistic", compile=compiled)
    state, streams = fresh_state(spec, training, torch.device("cpu")), streams_of(rank, world, 8)
    every = state.generator, state.discriminator, state.encoder, state.ema, state.encoder_ema
    networks = [network.double() for network in every if network is not None]
    images = torch.randint(256, (16, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels, rows = torch.arange(16) % 3, slice(2 * streams.start, 2 * streams.stop)
    try:
        with patch.object(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True)):
            step = make_step(state, training, spec=spec, streams=streams, all_streams=8, bf16=False)
            for _ in range(2):
                step(images[rows], labels[rows], False)
    finally:
        torch._dynamo.reset()
    return [value.numpy().copy() for network in networks for value in network.state_dict().values()]


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "r3gan"] + ["r3gan"]
)
def test_two_workers_compile_each_family_whole_and_train_the_weights_of_an_eager_one(ranks, family):
    """Sums over the ranks in a compiled pass too, and whatever DDP makes of a pass that is compiled within it."""
    expected = on_a_rank(0, 1, family, False)
    for weights in ranks.run(2, on_a_rank, family, True):
        for one, other in zip(weights, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("gpu", "language", "variable", "usual"), [(False, "C++", "CXX", "g++"), (True, "C", "CC", "gcc or clang")]
)
def test_without_a_compiler_there_is_one_line_of_what_to_do(monkeypatch, gpu, language, variable, usual):
    def refused(what: str) -> str:
        return (
            rf"^training\.compile needs a {re.escape(language)} compiler and there is no {what} here; .*in {variable},"
        )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv(variable, "no-such-compiler -O2")
    with pytest.raises(UserError, match=refused("no-such-compiler -O2")):
        check_compiler()
    monkeypatch.setenv(variable, "true")
    check_compiler()
    monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=refused(re.escape(usual))):
        check_compiler()
