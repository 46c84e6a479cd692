"""torch.compile as a recipe's option; that it is part of a run's identity is in tests/pipeline/test_config.py."""

import pytest
import torch

from ganmodels.spec import NetworkSpec
from pipeline.config import Training
from pipeline.errors import UserError
from pipeline.training.compiler import check_compiler
from pipeline.training.state import fresh_state
from pipeline.training.step import make_step

SPEC = NetworkSpec("dcgan", 16, 1, z_dim=4, width=2, max_width=2)
BATCH = 8

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_without_a_compiler_there_is_one_line_of_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UserError, match=r"^training\.compile needs a C\+\+ compiler and there is no no-such-compiler"):
        check_compiler()
    monkeypatch.setenv("CXX", "true")
    check_compiler()
