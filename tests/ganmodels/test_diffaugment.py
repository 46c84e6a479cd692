import pytest
import torch

from ganmodels.diffaugment import DiffAugment, Plan, augmented, draw
from ganmodels.randomness import generator

NOTHING = Plan(None, None, None)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=generator(seed, "images")) * 2 - 1


def streams(*numbers: int) -> list[torch.Generator]:
    return [generator(0, 3, "augment", stream) for stream in numbers]


def row(values: list[float]) -> torch.Tensor:
    return torch.tensor([values])


def test_a_policy_of_nothing_is_the_identity():
    x = drawn(4, 3, 8, 8)
    assert augmented(x, draw(DiffAugment(False, False, False), 4, 8, streams(0))).equal(x)
    neutral = Plan(row([0.0, 1.0, 1.0]).double(), row([0, 0]), None)
    torch.testing.assert_close(augmented(x[:1], neutral), x[:1], rtol=1e-14, atol=1e-14)


def test_a_plan_for_other_images_is_refused():
    with pytest.raises(ValueError, match="plan for 2 images does not fit 3"):
        augmented(drawn(3, 3, 8, 8), draw(DiffAugment(colour=False), 2, 8, streams(0)))


def test_colour_has_its_closed_form():
    """Brightness moves the mean, contrast the deviation from it, saturation what differs between channels."""
    x = drawn(1, 3, 8, 8)
    y = augmented(x, Plan(row([0.3, 1.7, 0.6]).double(), None, None))
    torch.testing.assert_close(y.mean(), x.mean() + 0.3)
    grey, new_grey = x.mean(1), y.mean(1)
    torch.testing.assert_close(new_grey - new_grey.mean(), 0.6 * (grey - grey.mean()))
    torch.testing.assert_close(y - new_grey[:, None], 0.6 * 1.7 * (x - grey[:, None]))


def test_grey_has_no_saturation_and_alpha_no_colour():
    grey, rgba = drawn(1, 1, 8, 8), drawn(1, 4, 8, 8)
    strong, weak = (augmented(grey, Plan(row([0.1, s, 1.2]).double(), None, None)) for s in (0.0, 2.0))
    torch.testing.assert_close(strong, weak)
    colour = Plan(row([0.3, 1.7, 0.6]).double(), None, None)
    assert augmented(rgba, colour)[:, 3].equal(rgba[:, 3])
    torch.testing.assert_close(augmented(rgba, colour)[:, :3], augmented(rgba[:, :3], colour))


@pytest.mark.parametrize(("right", "down"), [(2, 1), (-2, 0), (0, -1), (1, -2), (0, 0)])
def test_a_shift_is_a_roll_over_black(right, down):
    x = drawn(1, 3, 16, 16)
    expected = x.roll((down, right), (2, 3))
    expected[:, :, : max(down, 0)] = expected[:, :, 16 + min(down, 0) :] = 0
    expected[..., : max(right, 0)] = expected[..., 16 + min(right, 0) :] = 0
    assert augmented(x, Plan(None, row([right, down]), None)).equal(expected)


@pytest.mark.parametrize(("x", "y", "left", "right", "top", "bottom"), [(8, 8, 4, 12, 4, 12), (0, 16, 0, 4, 12, 16)])
def test_a_hole_is_half_as_wide_as_the_image(x, y, left, right, top, bottom):
    expected = torch.ones(1, 3, 16, 16)
    expected[:, :, top:bottom, left:right] = 0
    assert augmented(torch.ones(1, 3, 16, 16), Plan(None, None, row([x, y]))).equal(expected)


def test_draws_cover_the_papers_ranges_evenly():
    plan = draw(DiffAugment(), 1000, 32, streams(*range(8)))
    assert plan.colour.min(0).values.tolist() == pytest.approx([-0.5, 0, 0.5], abs=5e-3)
    assert plan.colour.max(0).values.tolist() == pytest.approx([0.5, 2, 1.5], abs=5e-3)
    for drawn_values, first, last in ((plan.shift, -4, 4), (plan.hole, 0, 32)):
        values, counts = drawn_values.flatten().unique(return_counts=True)
        assert values.tolist() == list(range(first, last + 1))
        even = 16000 / len(values)
        assert (counts - even).abs().max() < 4.5 * even**0.5


def test_streams_draw_alike_however_they_are_grouped():
    together = draw(DiffAugment(), 3, 16, streams(0, 1, 2))
    for stream in range(3):
        alone = draw(DiffAugment(), 3, 16, streams(stream))
        for name in ("colour", "shift", "hole"):
            assert getattr(alone, name).equal(getattr(together, name)[3 * stream : 3 * stream + 3])
    assert draw(DiffAugment(cutout=False), 3, 16, streams(0, 1, 2)).shift.equal(together.shift)
    assert not together.colour[:3].equal(together.colour[3:6])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_first_and_second_derivatives(channels):
    plan = draw(DiffAugment(), 2, 6, streams(1))
    x = drawn(2, channels, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augmented(x, plan), x)
    assert torch.autograd.gradgradcheck(lambda x: augmented(x, plan).square(), x)


@pytest.mark.parametrize("size", [16, 28, 256])
def test_precision_and_layout_are_the_images_own(size):
    plan = draw(DiffAugment(), 1, size, streams(0, 1))
    x = drawn(2, 3, size, size)
    y = augmented(x, plan)
    for other in (x.float(), x.bfloat16(), x.float().contiguous(memory_format=torch.channels_last)):
        with torch.autocast("cpu", torch.bfloat16):
            result = augmented(other, plan)
        assert result.dtype == other.dtype
        assert result.is_contiguous(memory_format=torch.channels_last) == (
            other.is_contiguous(memory_format=torch.channels_last)
        )
        tolerance = 1e-2 if other.dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(result.double(), y, rtol=tolerance, atol=tolerance)
