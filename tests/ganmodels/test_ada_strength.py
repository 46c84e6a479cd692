import dataclasses
import json
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist

from ganmodels.ada.strength import Heuristic, Strength, adjusted
from ganmodels.randomness import generator


def test_p_moves_at_its_speed_towards_the_target():
    """Always sure of the reals, p takes `speed_images` images from 0 to 1; never sure, it goes down as fast."""
    heuristic, batch = Heuristic(target=0.6, speed_images=10_000, every_images=40), 20
    strength = Strength()
    for step in range(1, 601):
        strength = adjusted(strength, heuristic, signs=batch, images=batch)
        images = step * batch // 40 * 40  # an adjustment every second step
        assert strength.p == pytest.approx(min(images / 10_000, 1), abs=1e-12)
    for step in range(1, 601):
        strength = adjusted(strength, heuristic, signs=0.5 * batch, images=batch)
        assert strength.p == pytest.approx(max(1 - step * batch // 40 * 40 / 10_000, 0), abs=1e-12)


def test_the_mean_is_over_all_images_since_the_last_adjustment():
    heuristic = Heuristic(target=0.5, speed_images=1000, every_images=30)
    strength = Strength(p=0.5)
    for signs in (10, 10):
        strength = adjusted(strength, heuristic, signs, 10)
        assert strength.p == 0.5
    assert strength == Strength(p=0.5, signs=20, images=20)
    assert adjusted(strength, heuristic, -4, 10) == Strength(p=0.5 + 30 / 1000)  # 16 / 30 is above one half
    assert adjusted(strength, heuristic, -6, 10) == Strength(p=0.5 - 30 / 1000)
    assert adjusted(strength, heuristic, -5, 10) == Strength(p=0.5)  # just on the target


def test_p_settles_where_r_t_is_the_target():
    """A discriminator that augmentation makes unsure, r_t = 1 - p: then p goes to 1 - target, whence from ever."""
    heuristic = Heuristic(target=0.6, speed_images=5000, every_images=50)
    for p in (0.0, 0.4, 1.0):
        strength = Strength(p=p)
        for _ in range(400):
            strength = adjusted(strength, heuristic, signs=50 * (1 - strength.p), images=50)
        assert strength.p == pytest.approx(0.4, abs=50 / 5000)


def test_state_is_plain_numbers():
    strength = adjusted(Strength(p=0.25), Heuristic(), 3.0, 8)
    assert Strength(**json.loads(json.dumps(dataclasses.asdict(strength)))) == strength


def logits_of(stream: int, step: int) -> torch.Tensor:
    """Surer of some streams than of others, so that no rank's own mean is the batch's."""
    return torch.randn(4, generator=generator(0, step, "logits", stream)) + 0.5 * stream - 0.8


def on_a_rank(rank: int, world: int, bounds: list[int]) -> list[float]:
    heuristic, strength, path = Heuristic(target=0.25, speed_images=1000, every_images=48), Strength(p=0.5), []
    for step in range(40):
        logits = torch.cat([logits_of(stream, step) for stream in range(bounds[rank], bounds[rank + 1])])
        shared = torch.stack([logits.sign().sum(), torch.tensor(float(len(logits)))])
        if world > 1:
            dist.all_reduce(shared)
        signs, images = shared.tolist()
        strength = adjusted(strength, heuristic, signs, int(images))
        path.append(strength.p)
    return path


@pytest.mark.parametrize("bounds", [[0, 5, 6], [0, 2, 4, 6]])
def test_every_rank_has_the_p_of_one_process(ranks, bounds):
    alone = on_a_rank(0, 1, [0, 6])
    moves = [after - before for before, after in pairwise(alone)]
    assert min(moves) < 0 < max(moves)
    assert ranks.run(len(bounds) - 1, on_a_rank, bounds) == [alone] * (len(bounds) - 1)
