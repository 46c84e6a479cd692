import pytest
import torch
from torch import nn

from ganmodels.ema import ema_decay, update_ema

LATE = 10**9  # images after which no ramp is left


class Network(nn.Module):
    def __init__(self, value: float, steps: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value))
        self.register_buffer("running", torch.full((2,), value, dtype=torch.float64))
        self.register_buffer("steps", torch.tensor(steps))


@pytest.mark.parametrize("batch", [10, 50, 1000])
def test_a_half_life_of_a_constant_halves_what_was_there(batch):
    average, network = Network(1.0, 0), Network(0.0, 0)
    for _ in range(1000 // batch):
        update_ema(average, network, ema_decay(batch, LATE, half_life=1000))
    torch.testing.assert_close(average.weight.data, torch.full((3,), 0.5), rtol=1e-4, atol=0)
    torch.testing.assert_close(average.running, torch.full((2,), 0.5, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_half_life_ramps_up_to_its_value():
    assert ema_decay(64, 0, 1000) == 0  # all is forgotten at the start
    assert ema_decay(64, 6400, 1000) == pytest.approx(0.5 ** (64 / 320))
    assert ema_decay(64, 20_000, 1000) == pytest.approx(0.5 ** (64 / 1000))
    assert ema_decay(64, LATE, 1000) == pytest.approx(0.5 ** (64 / 1000))
    assert ema_decay(64, 6400, 1000, ramp=0.1) == pytest.approx(0.5 ** (64 / 640))
    assert ema_decay(64, LATE, 0) == 0


def test_half_a_life_later_a_weight_counts_half_at_any_batch_and_along_the_ramp():
    """What is left of the first state is 0.5 ** (sum of batch / half-life): with the half-life at `ramp` of the images
    seen, batch / (ramp x k x batch) = 1 / (ramp x k) at step k, so the sum is a harmonic number over the ramp.
    """
    for batch in (10, 64):
        average, left = Network(1.0, 0), 1.0
        for step in range(1, 9):
            update_ema(average, Network(0.0, 0), ema_decay(batch, step * batch, half_life=1e9, ramp=0.5))
            left = 0.5 ** (sum(1 / k for k in range(1, step + 1)) / 0.5)
            torch.testing.assert_close(average.running, torch.full((2,), left, dtype=torch.float64), rtol=1e-12, atol=0)


def test_a_steady_change_is_followed_from_its_half_life_away():
    """Weights that grow by one a step are averaged to where they were decay / (1 - decay) steps ago."""
    decay = ema_decay(64, LATE, half_life=256)
    average = Network(0.0, 0)
    for step in range(1, 401):
        update_ema(average, Network(float(step), 0), decay)
    assert decay == 0.5**0.25
    assert 400 - average.running[0].item() == pytest.approx(decay / (1 - decay), rel=1e-12)


def test_weights_and_buffers_are_averaged_and_counters_copied():
    average, network = Network(1.0, 3), Network(5.0, 8)
    update_ema(average, network, 0.75)
    assert average.weight.tolist() == [2, 2, 2]
    assert average.running.tolist() == [2, 2]
    assert average.steps.item() == 8
    assert network.weight.tolist() == [5, 5, 5] and network.steps.item() == 8
    assert average.weight.requires_grad and average.weight.grad_fn is None


def test_no_decay_is_an_exact_copy():
    average, network = Network(1e8, 0), Network(0.1, 1)
    update_ema(average, network, 0.0)
    for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        assert a.equal(b)
