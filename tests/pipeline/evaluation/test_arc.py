"""The way between latents has its ends, even steps, and stays where latents lie."""

import torch

from ganmodels.randomness import image_latents
from pipeline.evaluation.arc import arc


def between(start: torch.Tensor, end: torch.Tensor, steps: int) -> torch.Tensor:
    shares = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    return arc(start.expand(steps, -1), end.expand(steps, -1), shares)


def test_it_has_its_ends_and_stays_as_far_out():
    ends = image_latents(0, 2, 64, 0)
    way = between(*ends, 8)
    torch.testing.assert_close(way[[0, -1]], ends.double())
    torch.testing.assert_close(way.norm(dim=1), torch.linspace(*ends.double().norm(dim=1), 8, dtype=torch.float64))


def test_its_steps_are_of_one_angle():
    way = between(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]), 4)
    angles = torch.atan2(way[:, 1], way[:, 0]).rad2deg()
    torch.testing.assert_close(angles, torch.tensor([0.0, 30.0, 60.0, 90.0], dtype=torch.float64))


def test_where_both_ends_are_one_it_stays_there():
    start = image_latents(0, 1, 64, 0)[0]
    torch.testing.assert_close(between(start, start, 3), start.double().expand(3, -1))
