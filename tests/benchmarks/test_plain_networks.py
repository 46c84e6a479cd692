"""What the benchmarks of a step race against is the same function, and an interval holds what it was drawn from."""

import numpy as np
import pytest
import torch
from plain_networks import PLAIN, plain
from small_networks import well_mixed
from turns import ratio_of

from ganmodels.spec import NetworkSpec


@pytest.mark.parametrize("family", PLAIN)
def test_the_plain_networks_are_ours(family):
    spec = NetworkSpec(family, 16, 3, z_dim=4, width=8, max_width=16)
    ours = [network.float().double() for network in well_mixed(spec)]  # plain ones are built in float32
    theirs = [network.double() for network in plain(spec, (ours[0], ours[1]))]
    z, images = torch.randn(4, 4, dtype=torch.float64), torch.rand(4, 3, 16, 16, dtype=torch.float64)
    for one, other, given in zip(ours, theirs, (z, images), strict=True):
        torch.testing.assert_close(one(given), other(given), rtol=1e-10, atol=1e-10)


def test_a_ratio_lies_in_its_interval():
    draw = np.random.default_rng(0)
    found = ratio_of(list(draw.normal(1, 0.05, 20)), list(draw.normal(2, 0.1, 20)))
    assert found.low < found.value < found.high and found.low > 1.8 and found.high < 2.2
