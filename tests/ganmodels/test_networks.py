import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from ganmodels.networks import FAMILIES, build_discriminator, build_generator
from ganmodels.spec import NetworkSpec, pyramid

SMALL = NetworkSpec("dcgan", 16, 3, classes=5, z_dim=7, width=4, max_width=6)


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [16, 28, 32, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_ranges_and_gradients(family, resolution, channels, classes):
    spec = NetworkSpec(family, resolution, channels, classes, z_dim=8, width=2)
    generator, discriminator = build_generator(spec), build_discriminator(spec)
    labels = torch.tensor([0, 2]) if classes else None
    images = generator(torch.randn(2, 8), labels)
    assert images.shape == (2, channels, resolution, resolution)
    assert images.abs().max() <= 1
    logits = discriminator(images, labels)
    assert logits.shape == (2,)
    softplus(-logits).sum().backward()
    for name, weight in [*generator.named_parameters(), *discriminator.named_parameters()]:
        assert weight.grad is not None and weight.grad.isfinite().all(), name


def test_dcgan_has_the_parameters_counted_by_hand():
    """Maps of SMALL: 4x4 and 8x8 with 6 features (4 doubled, capped), then the image."""
    norm = 2 * 5 * 6
    generator = (7 * 96 + 96) + norm + 6 * 6 * 16 + norm + (6 * 3 * 16 + 3)
    discriminator = (3 * 6 * 16 + 6) + (6 * 6 * 16 + 6) + (96 + 1) + 5 * 96
    assert (generator, discriminator) == (1755, 1453)
    assert (count(build_generator(SMALL)), count(build_discriminator(SMALL))) == (generator, discriminator)


def test_resnet_has_the_parameters_counted_by_hand():
    """Maps of SMALL: 4x4 and 8x8 with 6 features, 16x16 with 4."""

    def conv3(a: int, b: int) -> int:
        return a * b * 9 + b

    def conv1(a: int, b: int) -> int:
        return a * b + b

    def norm(a: int) -> int:
        return 2 * 5 * a

    up = norm(6) + conv3(6, 6) + norm(6) + conv3(6, 6) + conv1(6, 6)
    up += norm(6) + conv3(6, 4) + norm(4) + conv3(4, 4) + conv1(6, 4)
    down = conv3(3, 6) + conv3(6, 6) + conv1(3, 6) + conv3(6, 6) + conv3(6, 6) + conv1(6, 6)
    generator, discriminator = (7 * 96 + 96) + up + norm(4) + conv3(4, 3), down + (6 + 1) + 5 * 6
    assert (generator, discriminator) == (2237, 1261)
    spec = replace(SMALL, family="resnet")
    assert (count(build_generator(spec)), count(build_discriminator(spec))) == (generator, discriminator)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_not_depend_on_each_other(family):
    """Of the generator in evaluation, and of the discriminator always: its gradient penalty is per row."""
    spec = replace(SMALL, family=family)
    generator, discriminator = build_generator(spec).double(), build_discriminator(spec).double()
    z, labels = torch.randn(6, 7, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    batched = generator(z, labels)  # in training, so that evaluation has statistics to use
    generator.eval()
    images = generator(z, labels)
    for rows in ([0], [4], [5, 0, 2]):
        torch.testing.assert_close(generator(z[rows], labels[rows]), images[rows], rtol=1e-12, atol=1e-12)
        logits = discriminator(images, labels)
        torch.testing.assert_close(discriminator(images[rows], labels[rows]), logits[rows], rtol=1e-12, atol=1e-12)
    assert (batched - images).abs().max() > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_change_images_and_logits(family):
    spec = replace(SMALL, family=family)
    generator, discriminator = build_generator(spec), build_discriminator(spec)
    for name, weight in generator.named_parameters():
        if name.endswith("shift"):  # which start alike for all classes
            nn.init.normal_(weight)
    images = generator.eval()(torch.randn(1, 7).expand(2, 7), torch.tensor([0, 1]))
    assert not images[0].allclose(images[1])
    logits = discriminator(images[:1].expand(2, -1, -1, -1), torch.tensor([0, 1]))
    assert not logits[0].allclose(logits[1], rtol=0, atol=0)


@pytest.mark.parametrize("resolution", [-4, 0, 2, 3, 8, 14, 20, 24, 56, 1000, 2048])
@pytest.mark.parametrize("build", [build_generator, build_discriminator])
def test_a_resolution_that_doubling_does_not_reach_is_refused(build, resolution):
    with pytest.raises(ValueError, match=f"resolution {resolution} is not 28 or a power of two"):
        build(replace(SMALL, resolution=resolution))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("build", [build_generator, build_discriminator])
def test_unknown_channels_and_families_are_refused(build, family):
    with pytest.raises(ValueError, match="channels 2 is not 1, 3 or 4"):
        build(replace(SMALL, family=family, channels=2))
    with pytest.raises(ValueError, match="'vae'; there are dcgan, resnet"):
        build(replace(SMALL, family="vae"))


def test_the_pyramid_doubles_resolutions_and_halves_widths():
    assert pyramid(replace(SMALL, resolution=28, max_width=512)) == [(7, 16), (14, 8), (28, 4)]
    assert pyramid(replace(SMALL, resolution=64)) == [(4, 6), (8, 6), (16, 6), (32, 6), (64, 4)]


def test_a_spec_survives_json():
    assert NetworkSpec.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL


@pytest.mark.parametrize("change", [{"colour": 1}, {"family": None}])
def test_a_spec_with_unknown_or_missing_fields_is_refused(change):
    values = {name: value for name, value in (SMALL.to_dict() | change).items() if value is not None}
    with pytest.raises(ValueError, match=r"not a network spec: .*(colour|family)"):
        NetworkSpec.from_dict(values)
