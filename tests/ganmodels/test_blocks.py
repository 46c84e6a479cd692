"""First and second derivatives of the blocks of DCGAN and of the residual family, against differences."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from ganmodels import dcgan
from ganmodels.resnet import Down, Pair, Up
from ganmodels.spec import NetworkSpec

SMALL = NetworkSpec("dcgan", 16, 1, width=2, max_width=2, z_dim=3)
PLAIN: list[tuple[nn.Module, tuple[int, ...]]] = [
    (Up(2, 2, 0), (2, 2, 3, 3)),
    (Down(2, 3), (2, 2, 4, 4)),
    (Down(1, 2, first=True), (2, 1, 4, 4)),
]
WHOLE: list[tuple[nn.Module, tuple[int, ...]]] = [
    (dcgan.Generator(SMALL), (4, 3)),
    (dcgan.Discriminator(SMALL), (2, 1, 16, 16)),
]


def inputs(*shapes: tuple[int, ...]) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True) for shape in shapes]


def spread(module: nn.Module) -> nn.Module:
    """Weights of a size that reaches both sides of each kink."""
    random = torch.Generator().manual_seed(0)
    for weight in module.double().parameters():
        nn.init.normal_(weight, std=0.5, generator=random)
    return module


@pytest.mark.parametrize(("module", "shape"), PLAIN + WHOLE)
def test_derivatives(module, shape):
    def block(x: Tensor) -> Tensor:
        return module(x, None) if isinstance(module, Up) else module(x)

    spread(module)
    along_one_direction = module in [network for network, _ in WHOLE]  # an entry for each pixel takes long
    assert gradcheck(block, inputs(shape), fast_mode=along_one_direction)
    assert gradgradcheck(block, inputs(shape), fast_mode=along_one_direction)


def test_derivatives_of_a_block_with_classes():
    block, labels = spread(Up(2, 2, classes=2)), torch.tensor([0, 1])
    x = inputs((2, 2, 3, 3))
    assert gradcheck(lambda x: block(x, labels), x)
    assert gradgradcheck(lambda x: block(x, labels), x)


def test_derivatives_of_a_pair():
    pair = spread(Pair(3, 2))
    assert gradcheck(pair, inputs((2, 3), (2, 2)))
    assert gradgradcheck(pair, inputs((2, 3), (2, 2)))
