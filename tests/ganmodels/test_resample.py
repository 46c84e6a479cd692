import numpy as np
import pytest
import torch
from scipy.signal import upfirdn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import interpolate

from ganmodels import resample
from ganmodels.resample import BILINEAR, blur, downsample, upsample

TAPS = {"bilinear": BILINEAR, "uneven": (0.5, -1.0, 2.0, 4.0, 1.0, 0.25), "shortest": (1.0, 1.0)}
RESAMPLERS = {"up": upsample, "down": downsample, "blur": lambda x, taps=BILINEAR: blur(x, 2, taps, gain=3.0)}


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_scipy(x: np.ndarray, taps: np.ndarray, up: int, down: int, before: int, after: int) -> np.ndarray:
    """Zeros before and after what was spread out, then what upfirdn makes where all taps lie on it."""
    for axis in (2, 3):
        x = np.apply_along_axis(lambda line: _line(line, taps, up, down, before, after), axis, x)
    return x


def _line(line: np.ndarray, taps: np.ndarray, up: int, down: int, before: int, after: int) -> np.ndarray:
    spread = upfirdn([1.0], np.append(line, 0), up=up)[: len(line) * up]
    padded = np.pad(spread, (before, after))
    return upfirdn(taps, padded)[len(taps) - 1 : len(padded)][::down]


@pytest.mark.parametrize("taps", TAPS.values(), ids=TAPS)
@pytest.mark.parametrize("shape", [(2, 3, 6, 8), (1, 1, 4, 2)])
def test_agrees_with_scipy(taps, shape):
    x, unit = drawn(*shape), np.array(taps) / sum(taps)
    half = len(taps) // 2
    cases = {
        "up": by_scipy(x.numpy(), 2 * unit, 2, 1, half, half - 1),
        "down": by_scipy(x.numpy(), unit, 1, 2, half - 1, half - 1),
    }
    if shape[3] + 4 >= len(taps):
        cases["blur"] = by_scipy(x.numpy(), 3 * unit, 1, 1, 2, 2)
    for name, expected in cases.items():
        np.testing.assert_allclose(RESAMPLERS[name](x, taps).numpy(), expected, rtol=1e-13, atol=1e-13, err_msg=name)


def test_doubling_is_bilinear_inside_and_fades_to_zero_at_the_border():
    x = drawn(2, 3, 5, 7)
    inside = (..., slice(1, -1), slice(1, -1))
    expected = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(x)[inside], expected[inside], rtol=1e-13, atol=1e-13)
    line = upsample(torch.ones(1, 1, 3, 3))[0, 0]
    assert line[2].tolist() == [0.75, 1, 1, 1, 1, 0.75]
    assert line[0].tolist() == [0.5625, 0.75, 0.75, 0.75, 0.75, 0.5625]


def test_doubling_is_the_adjoint_of_halving_times_four():
    """So neither shifts the image: what one takes from a pixel, the other gives it."""
    x, y = drawn(1, 2, 4, 6), drawn(1, 2, 8, 12)
    torch.testing.assert_close((upsample(x) * y).sum(), 4 * (x * downsample(y)).sum(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("taps", TAPS.values(), ids=TAPS)
@pytest.mark.parametrize("resample", RESAMPLERS.values(), ids=RESAMPLERS)
def test_derivatives(resample, taps):
    x = drawn(1, 2, 4, 6).requires_grad_()
    assert gradcheck(lambda x: resample(x, taps), x)
    assert gradgradcheck(lambda x: resample(x, taps).square(), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("resample", RESAMPLERS.values(), ids=RESAMPLERS)
def test_layouts_and_types_agree_and_are_kept(resample, dtype):
    x = drawn(2, 3, 6, 4)
    last = x.contiguous(memory_format=torch.channels_last)
    y = resample(last)
    assert y.is_contiguous(memory_format=torch.channels_last) and resample(x).is_contiguous()
    assert y.equal(resample(x))
    narrow = resample(last.to(dtype))
    assert narrow.dtype == dtype
    torch.testing.assert_close(narrow.double(), y, rtol=0, atol=y.abs().max().item() * torch.finfo(dtype).eps * 4)
    assert resample(x.expand(2, 3, 6, 4)[:, :, :, ::2]).equal(resample(x[:, :, :, ::2].contiguous()))


@pytest.mark.parametrize("resample", [upsample, downsample])
def test_an_odd_number_of_taps_is_refused(resample):
    with pytest.raises(ValueError, match="3 taps would shift the image by half a pixel"):
        resample(drawn(1, 1, 4, 4), (1, 2, 1))


@pytest.mark.parametrize("taps", TAPS.values(), ids=TAPS)
@pytest.mark.parametrize("resampler", RESAMPLERS.values(), ids=RESAMPLERS)
def test_what_an_exported_graph_has_instead_is_the_same(resampler, taps, monkeypatch):
    x = drawn(2, 3, 6, 8)
    expected = resampler(x, taps)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    monkeypatch.setattr(resample, "_Apply", None)
    torch.testing.assert_close(resampler(x, taps), expected)
