import math
from dataclasses import replace

import pytest
import torch
from small_networks import small
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from ganmodels.networks import build_discriminator, build_generator
from ganmodels.r3gan import Block
from ganmodels.resample import downsample, upsample
from ganmodels.spec import NetworkSpec

CIFAR = NetworkSpec("r3gan", 32, 3, widths=(768,) * 4, cardinality=(96,) * 4)


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(("classes", "expected"), [(0, (20_732_160, 20_683_776)), (10, (20_781_952, 21_280_512))])
def test_has_the_published_numbers_of_parameters(classes, expected):
    spec = replace(CIFAR, classes=classes)
    with torch.device("meta"):
        assert (count(build_generator(spec)), count(build_discriminator(spec))) == expected
        derived = replace(spec, cardinality=())  # an eighth of the width is the paper's, here and for FFHQ
        assert (count(build_generator(derived)), count(build_discriminator(derived))) == expected


def test_a_new_generator_is_its_basis_and_transitions():
    """The last convolution of each block is zero."""
    generator = build_generator(small("r3gan", 32, 3, width=4, max_width=8)).double()
    z = torch.randn(3, 4, dtype=torch.float64)
    x = generator.basis * generator.input(z)[:, :, None, None]
    for up in generator.up:
        x = upsample(up.change(x))
    torch.testing.assert_close(generator(z), generator.output(x), rtol=1e-12, atol=1e-12)


def test_a_new_discriminator_is_its_transitions_and_basis():
    discriminator = build_discriminator(small("r3gan", 32, 3, classes=3, width=4, max_width=8)).double()
    images, labels = torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.tensor([2, 0, 1])
    x = discriminator.input(images)
    for down in discriminator.down:
        x = down.change(downsample(x))
    depthwise = nn.functional.conv2d(x, discriminator.basis[:, None], groups=8).flatten(1)
    expected = (discriminator.output(depthwise) * discriminator.embedding(labels)).sum(1)
    torch.testing.assert_close(discriminator(images, labels), expected, rtol=1e-12, atol=1e-12)


def test_weights_start_as_wide_as_their_fan_in_asks():
    """Eight blocks: a convolution inside one has the leaky ReLU's gain times 8^(-1/4)."""
    spec = replace(CIFAR, widths=(256,) * 4, cardinality=(), classes=16)
    generator, discriminator = build_generator(spec), build_discriminator(spec)
    gain = math.sqrt(2 / 1.04) * 8**-0.25
    block = generator.stages[2][1]
    expected = {
        generator.input.weight: 1 / math.sqrt(64 + 64), generator.basis: 1, generator.output.weight: 1 / 16,
        generator.embedding.weight: 1 / 4, block.expand.weight: gain / 16, block.mix.weight: gain / 12,
        discriminator.input.weight: 1 / math.sqrt(3), discriminator.basis: 1 / 4,
        discriminator.output.weight: 1 / 16, discriminator.embedding.weight: 1 / 64,
    }  # fmt: skip
    for weight, width in expected.items():
        assert weight.std().item() == pytest.approx(width, rel=0.05)
    assert block.shrink.weight.count_nonzero() == block.expand.bias.count_nonzero() == 0


def test_a_blocks_derivatives():
    block = Block(4, 2, total=2).double()
    for weight in block.parameters():
        nn.init.normal_(weight, std=0.5)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(block, x)
    assert gradgradcheck(block, x)


def test_cardinality_cuts_the_middle_convolution_into_groups():
    block = Block(8, 4, total=1)
    assert block.mix.weight.shape == (16, 4, 3, 3)
    x = torch.randn(1, 16, 5, 5)
    moved = x.clone()
    moved[:, :4] += 1  # the first group's input
    assert (block.mix(moved) - block.mix(x)).abs().amax((0, 2, 3)).gt(1e-6).tolist() == [True] * 4 + [False] * 12
