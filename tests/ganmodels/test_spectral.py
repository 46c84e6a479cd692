import copy

import pytest
import torch
from small_networks import small
from torch import nn

from ganmodels.ema import update_ema
from ganmodels.networks import build_discriminator, build_generator
from ganmodels.saving import from_bytes, load_into, to_bytes
from ganmodels.spectral import normalise_spectrum, power_iteration

DISCRIMINATOR = small("resnet", 32, 3, classes=3, width=8, spectral_norm="discriminator", attention=8)


def largest(weight: torch.Tensor) -> float:
    return torch.linalg.svdvals(weight.detach().flatten(1).double())[0].item()


def normalised(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if hasattr(module, "parametrizations")]


def test_every_layers_largest_singular_value_is_one():
    discriminator = build_discriminator(DISCRIMINATOR)
    for weight in discriminator.parameters():
        weight.data = torch.randn_like(weight) * 3
    power_iteration(discriminator, 200)
    layers = normalised(discriminator)
    kinds = (nn.Conv2d, nn.Linear, nn.Embedding)
    assert len(layers) == sum(isinstance(module, kinds) for module in discriminator.modules()) > 10
    for layer in layers:
        assert largest(layer.weight) == pytest.approx(1, rel=1e-3)


def test_a_new_network_is_normalised_already():
    for layer in normalised(build_discriminator(DISCRIMINATOR)):
        assert largest(layer.weight) == pytest.approx(1, rel=0.1)


def test_which_networks_are_normalised():
    for option, expected in {"none": (0, 0), "discriminator": (0, 1), "both": (1, 1)}.items():
        spec = small("resnet", spectral_norm=option)
        pair = build_generator(spec), build_discriminator(spec)
        assert tuple(min(len(normalised(network)), 1) for network in pair) == expected


def test_one_iteration_is_the_closed_form_of_a_diagonal_weight():
    layer = nn.Linear(2, 2, bias=False).double()
    normalise_spectrum(layer)
    original, vector = layer.parametrizations.weight.original, layer.parametrizations.weight[0].u
    original.data = torch.diag(torch.tensor([3.0, 2.0], dtype=torch.float64))
    vector.copy_(torch.tensor([0.6, 0.8], dtype=torch.float64))
    power_iteration(layer)
    turned = torch.tensor([9 * 0.6, 4 * 0.8], dtype=torch.float64)
    torch.testing.assert_close(vector, turned / turned.norm(), rtol=1e-12, atol=0)
    across = torch.tensor([3, 2]) * vector
    torch.testing.assert_close(layer.weight, original / across.norm(), rtol=1e-12, atol=0)


def test_forward_and_backward_leave_the_vectors_alone():
    discriminator = build_discriminator(DISCRIMINATOR).train()
    before = to_bytes(dict(discriminator.named_buffers()))
    images = torch.randn(2, 3, 32, 32)
    first = discriminator(images, torch.tensor([0, 1]))
    first.sum().backward()
    assert discriminator(images, torch.tensor([0, 1])).equal(first)
    assert to_bytes(dict(discriminator.named_buffers())) == before
    power_iteration(discriminator)
    assert to_bytes(dict(discriminator.named_buffers())) != before


def test_the_gradient_is_that_of_the_weight_over_its_norm():
    """Where the vector is the singular one, the derivative is the true one of W / |W|."""
    layer = nn.Linear(4, 3, bias=False).double()
    weight = layer.weight.detach().clone().requires_grad_()
    normalise_spectrum(layer)
    power_iteration(layer, 500)
    cost = torch.randn(3, 4, dtype=torch.float64)
    (layer.weight * cost).sum().backward()
    (expected,) = torch.autograd.grad((weight / torch.linalg.matrix_norm(weight, 2) * cost).sum(), weight)
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, expected, rtol=1e-9, atol=1e-9)


def test_vectors_are_saved_with_the_weights():
    discriminator, other = build_discriminator(DISCRIMINATOR), build_discriminator(DISCRIMINATOR)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    load_into(other, from_bytes(to_bytes(discriminator.state_dict())))
    assert other(images, labels).equal(discriminator(images, labels))


def test_an_average_of_networks_is_normalised_too():
    """The average of unit vectors is shorter than one."""
    generator = build_generator(small("resnet", 32, width=8, spectral_norm="both"))
    average = copy.deepcopy(generator)
    for _ in range(3):
        for weight in generator.parameters():
            weight.data += 0.3 * torch.randn_like(weight)
        power_iteration(generator, 50)
        update_ema(average, generator, 0.5)
    power_iteration(average, 50)
    for layer in normalised(average):
        assert largest(layer.weight) == pytest.approx(1, rel=0.01)


def test_under_autocast_the_norm_is_taken_in_float32():
    discriminator = build_discriminator(DISCRIMINATOR)
    layer = normalised(discriminator)[0]
    layer.parametrizations.weight.original.data *= 1.37  # one would be one in bf16 too
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, layer.weight)
