import pytest
import torch
from small_networks import small, well_mixed
from torch.autograd import gradcheck
from torch.nn.functional import softplus

from ganmodels.networks import build_discriminator, build_encoder, build_generator

SPEC = small("resnet", channels=3, classes=3, bigan=True)


def test_images_map_back_to_latents_and_pairs_to_logits():
    generator, discriminator = well_mixed(SPEC)
    encoder = build_encoder(SPEC).double()
    z, labels = torch.randn(4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    images = generator(z, labels)
    assert encoder(images).shape == z.shape
    logits = discriminator(images, labels, z)
    assert logits.shape == (4,)
    changed = discriminator(images, labels, torch.cat([z[:1] + 1, z[1:]]))
    assert (changed != logits).tolist() == [True, False, False, False]


def test_all_three_learn_from_one_value():
    """The minimax value of Donahue et al.: the encoder sees the discriminator through its latents, as G does."""
    networks = build_generator(SPEC), build_encoder(SPEC), build_discriminator(SPEC)
    generator, encoder, discriminator = networks
    z, labels, real = torch.randn(4, 4), torch.tensor([0, 1, 2, 0]), torch.rand(4, 3, 16, 16)
    on_real = discriminator(real, labels, encoder(real))
    on_fake = discriminator(generator(z, labels), labels, z)
    (softplus(-on_real) + softplus(on_fake)).mean().backward()
    for network in networks:
        assert all(weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_a_pairs_penalty_can_be_differentiated():
    _, discriminator = well_mixed(SPEC)
    labels, weight = torch.tensor([1, 2]), discriminator.pair.both.weight
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    z = torch.randn(2, 4, dtype=torch.float64)

    def penalty(weight: torch.Tensor) -> torch.Tensor:
        discriminate = torch.func.functional_call
        logits = discriminate(discriminator, {"pair.both.weight": weight}, (x, labels, z))
        return torch.autograd.grad(logits.sum(), x, create_graph=True)[0].square().sum()

    assert gradcheck(penalty, weight.detach().requires_grad_())


def test_networks_without_the_option_have_no_encoder():
    with pytest.raises(ValueError, match="these resnet networks have no encoder; set bigan"):
        build_encoder(small("resnet"))
    with pytest.raises(ValueError, match="r3gan networks take no bigan"):
        build_encoder(small("r3gan", bigan=True))
