from dataclasses import replace

import pytest
import torch
from small_networks import small, well_mixed
from torch import nn
from torch.nn.functional import softplus

from ganmodels.networks import FAMILIES, build_discriminator, build_generator
from ganmodels.spec import NetworkSpec

SMALL = NetworkSpec("dcgan", 16, 3, classes=5, z_dim=7, width=4, max_width=6)


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resolution", [16, 28, 32, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_ranges_and_gradients(family, resolution, channels, classes):
    spec = small(family, resolution, channels, classes)
    generator, discriminator = build_generator(spec), build_discriminator(spec)
    labels = torch.tensor([0, 2]) if classes else None
    images = generator(torch.randn(2, 4), labels)
    assert images.shape == (2, channels, resolution, resolution)
    assert images.abs().max() <= 1 or family in ("r3gan", "stylegan2")  # which end without a tanh
    logits = discriminator(images, labels)
    assert logits.shape == (2,)
    softplus(-logits).sum().backward()
    for name, weight in [*generator.named_parameters(), *discriminator.named_parameters()]:
        assert weight.grad is not None and weight.grad.isfinite().all(), name


@pytest.mark.parametrize("resolution", [128, 256, 512, 1024])
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_large_images(family, resolution):
    spec = small(family, resolution, 3, 2, width=1, max_width=2)
    labels = torch.tensor([1, 0])
    images = build_generator(spec).eval()(torch.randn(2, 4), labels)
    assert images.shape == (2, 3, resolution, resolution)
    assert build_discriminator(spec)(images, labels).shape == (2,)


@pytest.mark.parametrize("resolution", [16, 28])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gradient_penalty_reaches_the_weights_as_a_difference_says(family, resolution):
    """The derivative of R1 along a random direction of all weights, by double backward and by two evaluations."""
    spec = small(family, resolution, 3, 3)
    _, discriminator = well_mixed(spec)
    x = torch.rand(2, 3, resolution, resolution, dtype=torch.float64) * 2 - 1
    labels, weights = torch.tensor([0, 2]), list(discriminator.parameters())

    def penalty() -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(leaf, labels).sum(), leaf, create_graph=True)
        return slope.square().sum()

    slopes = torch.autograd.grad(penalty(), weights, allow_unused=True)  # of the last bias: none
    along = [torch.randn_like(weight) * weight.detach().abs().mean() for weight in weights]
    expected = sum((a * slope).sum().item() for a, slope in zip(along, slopes, strict=True) if slope is not None)

    def moved(by: float) -> float:
        for weight, a in zip(weights, along, strict=True):
            weight.data += by * a
        value = penalty().item()
        for weight, a in zip(weights, along, strict=True):
            weight.data -= by * a
        return value

    step = 1e-7
    assert expected == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_precisions_and_layouts_agree(family):
    spec = small(family, 32, 3, 3, width=8, max_width=16)
    z, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    generator, discriminator = (network.float() for network in well_mixed(spec))
    if family != "stylegan2":
        for weight in [*generator.parameters(), *discriminator.parameters()]:
            weight.data *= 0.5

    def outcome(dtype: torch.dtype = torch.float32, bf16: bool = False, last: bool = False) -> list[torch.Tensor]:
        layout = torch.channels_last if last else torch.contiguous_format
        networks = [network.to(dtype=dtype, memory_format=layout) for network in (generator, discriminator)]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            images = networks[0](z.to(dtype), labels)
            seen = images.detach().to(dtype).contiguous(memory_format=layout)
            return [images.double(), networks[1](seen, labels).double()]

    exact = outcome(torch.float64)
    for tolerance, got in [(1e-4, outcome()), (1e-4, outcome(last=True)), (0.1, outcome(bf16=True, last=True))]:
        for value, expected in zip(got, exact, strict=True):
            assert (value - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_truncation_of_zero_gives_each_latent_the_same_image(family):
    generator, _ = well_mixed(small(family))
    z = torch.randn(4, 4, dtype=torch.float64)
    generator(z)
    generator.eval()
    none = generator(z, truncation=0.0)
    assert none.equal(none[:1].expand_as(none)) and not none.equal(generator(z))
    assert generator(z, truncation=1.0).equal(generator(z))
    spread = [generator(z, truncation=psi).var(0).mean() for psi in (0.0, 0.5, 1.0)]
    assert spread == sorted(spread) and spread[1] > 0


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
    spec = small(family, channels=3, classes=5, z_dim=7, **({"group": 1} if family == "stylegan2" else {}))
    generator, discriminator = well_mixed(spec)
    z, labels = torch.randn(6, 7, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    batched = generator(z, labels)  # in training, so that evaluation has statistics to use
    generator.eval()
    images = generator(z, labels)
    for rows in ([0], [4], [5, 0, 2]):
        torch.testing.assert_close(generator(z[rows], labels[rows]), images[rows], rtol=1e-12, atol=1e-12)
        logits = discriminator(images, labels)
        torch.testing.assert_close(discriminator(images[rows], labels[rows]), logits[rows], rtol=1e-12, atol=1e-12)
    by_batch_norm = family in ("dcgan", "resnet")
    assert ((batched - images).abs().max() > 1e-6) == by_batch_norm


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_change_images_and_logits(family):
    spec = small(family, channels=3, classes=5, z_dim=7)
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


@pytest.mark.parametrize("build", [build_generator, build_discriminator])
@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("dcgan", {"attention": 8}, "dcgan networks take no attention; their options are widths"),
        ("r3gan", {"spectral_norm": "both"}, "r3gan networks take no spectral_norm; their options are blocks,"),
        ("stylegan2", {"cardinality": (1, 1, 1)}, "stylegan2 networks take no cardinality"),
        ("r3gan", {"cardinality": (1, 3, 1)}, "cardinality 3 does not divide 2 x width 4"),
        ("r3gan", {"cardinality": (1, 1)}, r"cardinality \[1, 1\] is not one for each of the widths \[4, 4, 2\]"),
        ("r3gan", {"blocks": 0}, "blocks 0 is not a whole number of at least 1"),
        ("resnet", {"attention": 16}, r"attention 16 is not the side of an inner feature map, one of \[8\]"),
        ("resnet", {"spectral_norm": "generator"}, "spectral_norm 'generator' is not none, discriminator or both"),
        ("resnet", {"widths": (4, 4)}, r"widths \[4, 4\] are not one for each side of \[4, 8, 16\]"),
    ],
)
def test_options_that_a_family_lacks_or_cannot_make_are_refused(build, family, change, message):
    with pytest.raises(ValueError, match=message):
        build(small(family, **change))
