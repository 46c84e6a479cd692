import numpy as np
import pytest
import torch
from scipy.signal import upfirdn

from ganmodels.ada import wavelets
from ganmodels.randomness import generator

EXACT = {"rtol": 1e-12, "atol": 1e-12}
MAXIMALLY_FLAT = np.array([-5, 0, 49, 0, -245, 0, 1225, 2048, 1225, 0, -245, 0, 49, 0, -5]) / 2048


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(0, "signal"))


def test_the_pair_splits_the_maximally_flat_half_band_filter():
    """Both of the 9/7 pair have four zeros at the highest frequency, and their product is known in fractions."""
    np.testing.assert_allclose(np.convolve(wavelets.DOUBLING, wavelets.HALVING), MAXIMALLY_FLAT, **EXACT)
    for taps in (wavelets.DOUBLING, wavelets.HALVING):
        k = np.arange(len(taps)) - len(taps) // 2
        assert np.abs([((-1.0) ** k * k**power * taps).sum() for power in range(4)]).max() < 1e-12


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("size", [4, 15, 28])
def test_resampling_agrees_with_upfirdn(axis, size):
    x = drawn(2, 3, size, size)
    x = x if axis == -1 else x[..., :5]
    along = np.moveaxis(x.numpy(), axis, -1)
    mirrored = np.pad(along, [(0, 0)] * 3 + [(2, 2)], mode="reflect")
    finer = upfirdn(wavelets.DOUBLING, mirrored, up=2)[..., 4 + 3 :][..., : 2 * size - 1]
    np.testing.assert_allclose(np.moveaxis(wavelets.doubled(x, axis).numpy(), axis, -1), finer, **EXACT)
    if size % 2:
        coarser = upfirdn(wavelets.HALVING, along, down=2)[..., 4:][..., : (size - 9) // 2 + 1]
        np.testing.assert_allclose(np.moveaxis(wavelets.halved(x, axis).numpy(), axis, -1), coarser, **EXACT)


@pytest.mark.parametrize("axis", [-1, -2])
def test_halving_undoes_doubling(axis):
    x, margin = drawn(2, 3, 8, 8), wavelets.MARGIN
    pad = (margin, margin, 0, 0) if axis == -1 else (0, 0, margin, margin)
    finer = torch.nn.functional.pad(wavelets.doubled(x, axis), pad, mode="reflect")
    torch.testing.assert_close(wavelets.halved(finer, axis), x, **EXACT)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("name", ["doubled", "halved"])
def test_transposes(axis, name):
    there, back = getattr(wavelets, name), getattr(wavelets, f"{name}_transposed")
    x = drawn(2, 3, 15, 15)
    y = there(x, axis)
    other = torch.randn(y.shape, dtype=torch.float64, generator=generator(1))
    torch.testing.assert_close((y * other).sum(), (x * back(other, axis)).sum(), **EXACT)


@pytest.mark.parametrize("size", [8, 16, 28, 256])
def test_bands_sum_to_the_identity(size):
    bands = wavelets.bands(size)
    assert bands.shape == (4, size, size)
    torch.testing.assert_close(bands.sum(0), torch.eye(size, dtype=torch.float64), **EXACT)


def test_bands_have_their_frequency_responses():
    """A mirrored image's waves are cosines about its first pixel; a filter multiplies each by its response there."""
    size = 33
    frequency = torch.arange(size, dtype=torch.float64) * np.pi / (size - 1)
    waves = torch.cos(frequency * torch.arange(size)[:, None])

    def low(spacing: int) -> torch.Tensor:
        return (8 + 9 * (spacing * frequency).cos() - (3 * spacing * frequency).cos()) / 16

    responses = [low(1) * low(2) * low(4), low(1) * low(2) * (1 - low(4)), low(1) * (1 - low(2)), 1 - low(1)]
    bands = wavelets.bands(size)
    for band, response in zip(bands, responses, strict=True):
        torch.testing.assert_close(band @ waves, waves * response, **EXACT)
    for band, middle in zip(responses, (2, 6, 12, 24), strict=True):  # of pi/8, pi/4, pi/2 and pi
        assert band[middle] > 0.7


def test_positions_are_mirrored_as_often_as_it_takes():
    positions = torch.arange(-9, 13)
    assert wavelets.reflected(positions, 3).tolist() == np.pad(np.arange(4), (9, 9), mode="reflect").tolist()[:22]
