import numpy as np
import pytest
import torch
from small_networks import small, well_mixed
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from ganmodels.networks import build_discriminator, build_generator, rows_together
from ganmodels.resample import blur
from ganmodels.spec import NetworkSpec
from ganmodels.stylegan2 import Down, Layer, Modulated, draw_noise, with_deviation

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("resolution", "base", "expected"),
    [(1024, 32768, (30_370_060, 29_012_513)), (256, 16384, (24_767_458, 24_001_089))],
)
def test_has_the_published_numbers_of_parameters(resolution, base, expected):
    spec = NetworkSpec("stylegan2", resolution, 3, z_dim=512, width=base // resolution)
    with torch.device("meta"):
        assert (count(build_generator(spec)), count(build_discriminator(spec))) == expected


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [False, True])
def test_modulation_is_that_of_each_rows_own_weights(up, demodulate):
    """As the paper writes it: weights times styles, divided by their norm over inputs and taps."""
    layer = Modulated(3, 5, 3, 4, up=up, demodulate=demodulate).double()
    x, w = drawn(2, 3, 6, 6), drawn(2, 4, seed=1)
    got = layer(x, w)
    for row in range(2):
        style = w[row] @ layer.style.weight.T / 2 + layer.style.bias
        weight = layer.weight / np.sqrt(27) * style[:, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            spread = blur(F.conv_transpose2d(x[row : row + 1], weight.transpose(0, 1), stride=2), 1, gain=2)
            torch.testing.assert_close(got[row], spread[0], **EXACT)
        else:
            torch.testing.assert_close(got[row], F.conv2d(x[row], weight, padding=1), **EXACT)


def test_demodulation_keeps_the_variance_of_white_noise_whatever_the_style():
    layer = Modulated(64, 64, 3, 4).double()
    y = layer(drawn(2, 64, 32, 32), 5 * drawn(2, 4, seed=1))[:, :, 1:-1, 1:-1]
    assert y.var().item() == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("up", [False, True])
def test_a_layers_derivatives(up):
    layer = Layer(2, 3, 6 if up else 3, 4, up=up).double()
    layer.strength.data.fill_(0.5)
    inputs = drawn(2, 2, 3, 3).requires_grad_(), drawn(2, 4, seed=1).requires_grad_()
    assert gradcheck(lambda x, w: layer(x, w, None), inputs)
    assert gradgradcheck(lambda x, w: layer(x, w, None), inputs)


def test_a_discriminator_blocks_derivatives():
    block, x = Down(2, 3).double(), drawn(2, 2, 4, 4).requires_grad_()
    assert gradcheck(block, x)
    assert gradgradcheck(block, x)


def test_deviation_is_over_consecutive_rows_and_the_mean_of_all_else():
    x = drawn(6, 3, 4, 5)
    y = with_deviation(x, 2)
    assert y[:, :3].equal(x) and y.shape == (6, 4, 4, 5)
    for row in range(6):
        pair = x[row // 2 * 2 : row // 2 * 2 + 2].numpy()
        np.testing.assert_allclose(y[row, 3], np.sqrt(pair.std(0) ** 2 + 1e-8).mean(), rtol=1e-12)


def test_rows_that_do_not_divide_into_groups_are_refused():
    discriminator = build_discriminator(small("stylegan2", group=4))
    with pytest.raises(ValueError, match="6 rows do not divide into groups of 4"):
        discriminator(torch.zeros(6, 1, 16, 16))


def test_how_many_rows_a_stream_needs_can_be_asked():
    assert [rows_together(small(family)) for family in ("dcgan", "stylegan2")] == [1, 2]


def test_noise_is_constant_or_each_rows_own():
    spec = small("stylegan2", 32)
    generator, _ = well_mixed(spec)
    generator.eval()
    z = drawn(1, 4).expand(3, 4)
    constant = generator(z)
    torch.testing.assert_close(constant, constant[:1].expand_as(constant), **EXACT)
    noise = [layer.double() for layer in draw_noise(spec, 3, 0, 7, "pixels", 2)]
    assert [layer.shape for layer in noise] == [(3, 1, side, side) for side in (4, 8, 8, 16, 16, 32, 32)]
    own = generator(z, noise=noise)
    assert not own[0].allclose(own[1])
    torch.testing.assert_close(generator(z[1:2], noise=[layer[1:2] for layer in noise]), own[1:2], **EXACT)
    with pytest.raises(ValueError, match="6 layers of noise for a generator of 7"):
        generator(z, noise=noise[:-1])


def test_noise_is_a_function_of_its_key():
    spec = small("stylegan2")
    for a, b in zip(draw_noise(spec, 2, 0, 1), draw_noise(spec, 2, 0, 1), strict=True):
        assert a.equal(b)
    first, second = draw_noise(spec, 2, 0, 1)[0], draw_noise(spec, 2, 0, 2)[0]
    assert not first.equal(second)


def test_a_new_generator_ignores_noise():
    spec = small("stylegan2")
    generator = build_generator(spec)
    z = torch.randn(2, 4)
    assert generator(z).equal(generator(z, noise=draw_noise(spec, 2, 0)))


def test_forward_draws_nothing():
    generator = build_generator(small("stylegan2"))
    before = torch.random.get_rng_state()
    generator(torch.randn(2, 4, generator=torch.Generator()))
    assert torch.random.get_rng_state().equal(before)


def test_styles_do_not_depend_on_the_latents_length():
    generator, _ = well_mixed(small("stylegan2"))
    z = drawn(2, 4)
    torch.testing.assert_close(generator.mapping(3 * z, None), generator.mapping(z, None), rtol=1e-7, atol=1e-7)


def test_the_mapping_learns_at_a_hundredth_of_the_rate():
    """A step of one size in a weight of the mapping moves its output a hundredth as far."""
    mapping = build_generator(small("stylegan2", w_dim=64)).mapping.double()
    layer = mapping.layers[1]
    assert layer.weight.std().item() == pytest.approx(100, rel=0.05)
    x = drawn(256, 64)
    assert layer(x).std().item() == pytest.approx(np.sqrt(2), rel=0.05)
    before = layer(x)
    layer.bias.data += 1
    torch.testing.assert_close(layer(x) - before, torch.full_like(before, 0.01 * np.sqrt(2)), **EXACT)


def test_under_autocast_styles_are_float32_and_maps_bf16():
    generator = build_generator(small("stylegan2", 16))
    z, x, seen = torch.randn(2, 4), torch.randn(2, 4, 4, 4).bfloat16(), []
    w = generator.mapping(z, None)
    generator.layers[2].register_forward_hook(lambda module, given, made: seen.append((given[0].dtype, made.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        assert generator.mapping(z, None).equal(w)
        assert generator.to_image[0].conv(x, w).dtype == torch.bfloat16
        assert generator(z).dtype == torch.float32
    assert seen == [(torch.bfloat16, torch.bfloat16)]


def centre(rank: int, world: int, counts: list[int]) -> np.ndarray:
    generator, _ = well_mixed(small("stylegan2", classes=3))
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    for seed in (0, 1):
        generator(drawn(6, 4, seed=seed)[rows], labels[rows])
    return generator.centre.numpy()


def test_the_centre_follows_the_mean_style_of_the_global_batch(ranks):
    generator, _ = well_mixed(small("stylegan2", classes=3))
    expected = torch.zeros(6, dtype=torch.float64)
    for seed in (0, 1):
        w = generator.mapping(drawn(6, 4, seed=seed), torch.tensor([0, 1, 2, 0, 1, 2]))
        expected = 0.995 * expected + 0.005 * w.mean(0)
    for counts in ([6], [1, 5], [2, 3, 1]):
        for answer in ranks.run(len(counts), centre, counts):
            np.testing.assert_allclose(answer, expected.detach(), rtol=1e-12, atol=1e-15)


def test_truncation_takes_styles_towards_the_centre():
    generator, _ = well_mixed(small("stylegan2"))
    generator.eval()
    generator.centre.copy_(drawn(6, seed=3))
    z = drawn(2, 4)
    w = 0.7 * generator.mapping(z, None) + 0.3 * generator.centre
    generator.mapping.forward = lambda z, labels: w
    untruncated = generator(z)
    del generator.mapping.forward
    torch.testing.assert_close(generator(z, truncation=0.7), untruncated, **EXACT)
