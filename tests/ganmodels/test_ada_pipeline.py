import dataclasses
import math

import pytest
import torch

from ganmodels import linear
from ganmodels.ada.pipeline import augmented
from ganmodels.ada.plan import Ada, Plan, draw
from ganmodels.randomness import generator

ALL = Ada(*[1.0] * len(dataclasses.fields(Ada)))


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=generator(0, "images")) * 2 - 1


def plan_for(images: torch.Tensor, p: float = 0.5, ada: Ada = ALL, streams: range = range(1)) -> Plan:
    rows = len(images) // len(streams)
    return draw(ada, p, rows, images.shape[1], images.shape[2], [generator(0, 0, "augment", s) for s in streams])


def nothing(count: int) -> Plan:
    return plan_for(torch.empty(count, 3, 8, 8), p=0)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_p_0_is_the_identity_bit_for_bit(channels, dtype):
    x = drawn(4, channels, 28, 28).to(dtype)
    assert augmented(x, plan_for(x, p=0)).equal(x)


@pytest.mark.parametrize("p", [0.02, 1.0])
def test_each_image_is_augmented_by_itself(p):
    """So it does not matter which streams a rank has, and what nothing happens to stays bit for bit."""
    x = drawn(12, 3, 16, 16)
    together = augmented(x, plan_for(x, p, streams=range(4)))
    for stream in range(4):
        rows = slice(3 * stream, 3 * stream + 3)
        alone = augmented(x[rows], plan_for(x[rows], p, streams=range(stream, stream + 1)))
        torch.testing.assert_close(together[rows], alone, rtol=0, atol=1e-13)
    same = [now.equal(before) for now, before in zip(together, x, strict=True)]
    assert 0 < sum(same) < 12 if p < 1 else not any(same)


def test_how_many_are_taken_at_once_does_not_matter(monkeypatch):
    x = drawn(6, 3, 16, 16).requires_grad_()
    results = []
    for cached in (1, 2 * x[0].numel(), 2**30):
        monkeypatch.setattr(linear, "CACHED", cached)
        y = augmented(x, plan_for(x, p=0.9))
        results.append((y.detach(), torch.autograd.grad(y.pow(3).sum(), x)[0]))
    for y, slope in results[1:]:
        torch.testing.assert_close(y, results[0][0], rtol=0, atol=1e-13)
        torch.testing.assert_close(slope, results[0][1], rtol=0, atol=1e-12)


def test_the_same_plan_gives_the_same_bits():
    x = drawn(6, 3, 16, 16).float()
    assert augmented(x, plan_for(x)).equal(augmented(x, plan_for(x)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_first_and_second_derivatives(channels):
    x = drawn(2, channels, 4, 4).requires_grad_()
    plan = plan_for(x, p=1.0)
    assert torch.autograd.gradcheck(lambda x: augmented(x, plan), x)
    assert torch.autograd.gradgradcheck(lambda x: augmented(x, plan).square(), x)


def test_a_penalty_under_autocast_is_float32s():
    """`torch.autograd.grad` inside autocast would take the matrix products of the way back in bf16."""
    x = drawn(8, 3, 16, 16)
    plan = plan_for(x, p=0.8)

    def penalty(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(augmented(x, plan).pow(3).sum(), x, create_graph=True)
        value = slope.square().sum()
        return value, torch.autograd.grad(value, x)[0]

    with torch.autocast("cpu", torch.bfloat16):
        value, slope = penalty(x.float())
    exact_value, exact_slope = penalty(x.clone())
    torch.testing.assert_close(value.double(), exact_value, rtol=1e-4, atol=0)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-3, atol=1e-3 * exact_slope.abs().max().item())


@pytest.mark.parametrize("size", [16, 28, 64, 256])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_precision_and_layout_are_the_images_own(size, channels):
    x = drawn(2, channels, size, size)
    plan = plan_for(x, p=0.9)
    y = augmented(x, plan)
    for other in (x.float(), x.bfloat16(), x.float().contiguous(memory_format=torch.channels_last)):
        with torch.autocast("cpu", torch.bfloat16):
            result = augmented(other, plan)
        assert result.dtype == other.dtype
        assert result.stride() == other.stride()
        tolerance = 0.1 if other.dtype == torch.bfloat16 else 1e-3
        torch.testing.assert_close(result.double(), y, rtol=tolerance, atol=tolerance)


def test_images_of_1024_pixels():
    x = drawn(1, 1, 1024, 1024).float()
    y = augmented(x, plan_for(x, p=1.0))
    assert y.shape == x.shape and y.isfinite().all() and not y.equal(x)


def test_a_hole_is_half_as_wide_as_the_image():
    plan = dataclasses.replace(nothing(1), holes=torch.tensor([[0.25, 0.5]], dtype=torch.float64))
    expected = torch.ones(1, 3, 16, 16)
    expected[:, :, 4:12, 0:8] = 0
    assert augmented(torch.ones(1, 3, 16, 16), plan).equal(expected)


def test_noise_is_added_to_its_images():
    noise = drawn(2, 3, 8, 8).float()
    plan = dataclasses.replace(nothing(3), noisy=torch.tensor([True, False, True]), noise=noise)
    x = drawn(3, 3, 8, 8).float()
    assert (augmented(x, plan) - x)[1].abs().max() == 0
    torch.testing.assert_close((augmented(x, plan) - x)[[0, 2]], noise)


def test_a_bands_gain_multiplies_waves_of_that_band():
    """Along one axis; the other axis' constant lies in the lowest band."""
    size = 65
    wave = torch.cos(torch.arange(size, dtype=torch.float64) * math.pi * 0.75).expand(1, 1, size, size)
    plan = dataclasses.replace(nothing(1), gains=torch.tensor([[1.0, 1.0, 1.0, 3.0]], dtype=torch.float64))
    passed = 1 - (8 + 9 * math.cos(0.75 * math.pi) - math.cos(3 * 0.75 * math.pi)) / 16
    torch.testing.assert_close(augmented(wave, plan), wave * (1 + 2 * passed), rtol=0, atol=1e-12)
    assert augmented(torch.ones_like(wave), plan).allclose(torch.ones_like(wave), atol=1e-12)


def test_order_is_geometry_then_colour_then_filter_then_noise_then_hole():
    x = drawn(1, 3, 8, 8)
    parts = plan_for(x, p=1.0)
    expected = x
    for field in ("geometry", "colour", "gains", "noise", "holes"):
        values = {field: getattr(parts, field)} | ({"noisy": parts.noisy} if field == "noise" else {})
        expected = augmented(expected, dataclasses.replace(nothing(1), **values))
    torch.testing.assert_close(augmented(x, parts), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (2, 3, 8, 9)])
def test_a_plan_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match="a plan for 2 square images does not fit"):
        augmented(torch.zeros(shape), nothing(2))
