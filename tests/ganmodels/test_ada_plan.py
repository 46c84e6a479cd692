import dataclasses
import math

import pytest
import torch
from scipy.stats import ks_2samp, kstest

from ganmodels.ada.plan import POWER, Ada, Plan, draw
from ganmodels.randomness import generator

SIZE = 64
NONE = Ada(*[0.0] * len(dataclasses.fields(Ada)))
ALL = Ada(*[1.0] * len(dataclasses.fields(Ada)))
IDENTITY = torch.eye(3, dtype=torch.float64)


def streams(*numbers: int, purpose: str = "augment") -> list[torch.Generator]:
    return [generator(0, 3, purpose, stream) for stream in numbers]


def only(**multipliers: float) -> Ada:
    return dataclasses.replace(NONE, **multipliers)


def drawn(ada: Ada, p: float = 1.0, rows: int = 4000, purpose: str = "augment") -> Plan:
    """Noise is a pixel an image here, else it would be most of the work."""
    return draw(ada, p, rows, 1, SIZE if not ada.noise else 1, streams(0, purpose=purpose))


def changed(plan: Plan) -> torch.Tensor:
    """Which images anything happens to."""
    moved = (plan.geometry != IDENTITY).flatten(1).any(1)
    recoloured = (plan.colour != torch.eye(4, dtype=torch.float64)).flatten(1).any(1)
    return moved | recoloured | (plan.gains != 1).any(1) | plan.noisy | plan.holes.isfinite().all(1)


def normal(values: torch.Tensor, std: float) -> float:
    return kstest(values / std, "norm").pvalue


def uniform(values: torch.Tensor, low: float, high: float) -> float:
    return kstest((values - low) / (high - low), "uniform").pvalue


# Half of the flips and a quarter of the turns are none; a translation of 64 pixels by at most 8 is 0 on both axes
# with chance 1/16 squared; each of the four bands has a chance of its own.
@pytest.mark.parametrize(
    ("operation", "share"),
    [(name, lambda q: q) for name in ("scale", "rotate", "aniso", "xfrac", "brightness", "contrast", "hue")]
    + [(name, lambda q: q) for name in ("saturation", "noise", "cutout")]
    + [("xflip", lambda q: q / 2), ("lumaflip", lambda q: q / 2), ("rotate90", lambda q: q * 3 / 4)]
    + [("xint", lambda q: q * 255 / 256), ("imgfilter", lambda q: 1 - (1 - q) ** 4)],
)
@pytest.mark.parametrize(("p", "multiplier"), [(0.5, 1.0), (0.6, 0.5), (0.9, 2.0)])
def test_each_operation_happens_as_often_as_p_times_its_multiplier(operation, share, p, multiplier):
    rows = 4000
    happened = changed(drawn(only(**{operation: multiplier}), p, rows)).sum().item()
    expected = share(min(p * multiplier, 1))
    assert happened == pytest.approx(rows * expected, abs=4 * math.sqrt(rows * expected * (1 - expected)) + 1e-9)


def test_nothing_happens_at_p_0_or_without_multipliers():
    assert not changed(drawn(ALL, 0.0)).any()
    assert not changed(drawn(NONE, 1.0)).any()


def test_blits_are_flips_quarter_turns_and_whole_pixels():
    matrices = drawn(only(xflip=1, rotate90=1, xint=1)).geometry
    assert matrices.equal(matrices.round())
    assert matrices[:, :2, :2].flatten(1).unique(dim=0).shape[0] == 8  # the square's symmetries
    shifts, counts = matrices[:, :2, 2].flatten().unique(return_counts=True)
    assert shifts.tolist() == list(range(-8, 9))
    assert counts[0] + counts[-1] == pytest.approx(8000 / 16, abs=100)  # the outermost are half as often
    assert (counts[1:-1] - 8000 / 16).abs().max() < 100


def test_scale_is_lognormal():
    matrices = drawn(only(scale=1)).geometry
    assert matrices[:, 0, 0].equal(matrices[:, 1, 1])
    assert normal(matrices[:, 0, 0].log2(), 0.2) > 1e-3


def test_aniso_keeps_the_area():
    matrices = drawn(only(aniso=1)).geometry
    torch.testing.assert_close(matrices[:, 0, 0] * matrices[:, 1, 1], torch.ones(4000, dtype=torch.float64))
    assert normal(matrices[:, 0, 0].log2(), 0.2) > 1e-3


def test_rotations_are_by_any_angle():
    matrices = drawn(only(rotate=1)).geometry
    torch.testing.assert_close(matrices @ matrices.mT, IDENTITY.expand_as(matrices))
    assert uniform(torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]), -math.pi, math.pi) > 1e-3


def test_fractional_translations_are_normal():
    shifts = drawn(only(xfrac=1)).geometry[:, :2, 2]
    assert normal(shifts[:, 0], SIZE / 8) > 1e-3 and normal(shifts[:, 1], SIZE / 8) > 1e-3
    assert abs(torch.corrcoef(shifts.T)[0, 1]) < 0.06


def test_colours_have_the_papers_distributions():
    trace = drawn(only(hue=1)).colour[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1)
    assert uniform(((trace - 1) / 2).acos(), 0, math.pi) > 1e-3
    assert normal(drawn(only(brightness=1)).colour[:, 0, 3], 0.2) > 1e-3
    assert normal(drawn(only(contrast=1)).colour[:, 0, 0].log2(), 0.5) > 1e-3
    across = torch.tensor([1.0, -1, 0], dtype=torch.float64)
    saturation = (drawn(only(saturation=1)).colour[:, :3, :3] @ across)[:, 0]
    assert normal(saturation.log2(), 1) > 1e-3


def test_noise_is_half_normal_times_normal_and_holes_are_anywhere():
    noise = drawn(only(noise=1)).noise.double()
    assert noise.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.1)
    assert noise.abs().mean().item() == pytest.approx(0.1 * 2 / math.pi, rel=0.1)
    holes = drawn(only(cutout=1)).holes
    assert uniform(holes[:, 0], 0, 1) > 1e-3 and uniform(holes[:, 1], 0, 1) > 1e-3


def test_filter_gains_keep_a_natural_images_power():
    """Each amplification is followed by a scaling of all bands: after one of them the weighed power is 1 again."""
    gains = drawn(only(imgfilter=1), 0.1).gains
    one_band = ((gains / gains.median(1, keepdim=True).values - 1).abs() > 1e-12).sum(1) == 1
    assert one_band.sum() > 500
    power = (gains[one_band].square() * torch.tensor(POWER, dtype=torch.float64)).sum(1)
    torch.testing.assert_close(power, torch.ones_like(power))


def assert_same(first: Plan, second: Plan) -> None:
    """To the last digit, which exp2 rounds by where a number stands in its vector."""
    for field in dataclasses.fields(Plan):
        torch.testing.assert_close(getattr(first, field.name), getattr(second, field.name), rtol=1e-14, atol=1e-14)
    for name in ("noisy", "noise", "holes"):
        assert getattr(first, name).equal(getattr(second, name))


def part(plan: Plan, rows: slice) -> Plan:
    noise = plan.noise[plan.noisy[: rows.start].sum() : plan.noisy[: rows.stop].sum()]
    return Plan(plan.geometry[rows], plan.colour[rows], plan.gains[rows], plan.noisy[rows], noise, plan.holes[rows])


def test_streams_draw_alike_however_they_are_grouped():
    together = draw(ALL, 0.5, 5, 3, 16, streams(*range(8)))
    for first, last in [(0, 8), (0, 3), (3, 8), (4, 5)]:  # the streams of one, of two and of other numbers of ranks
        alone = draw(ALL, 0.5, 5, 3, 16, streams(*range(first, last)))
        assert_same(alone, part(together, slice(5 * first, 5 * last)))
    assert not together.geometry[:5].equal(together.geometry[5:10])


def test_an_operations_draws_do_not_depend_on_the_others():
    everything, cutout = drawn(dataclasses.replace(ALL, noise=0), 0.5), drawn(only(cutout=1), 0.5)
    assert everything.holes.equal(cutout.holes)
    assert not everything.colour.equal(cutout.colour)


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_real_and_generated_images_have_the_same_law(p):
    """`draw` sees no images; what is left to differ is the key's purpose."""
    ada = dataclasses.replace(ALL, noise=0)
    real, fake = (drawn(ada, p, purpose=purpose) for purpose in ("augment real", "augment fake"))
    assert not real.geometry.equal(fake.geometry)
    for name in ("geometry", "colour", "gains", "holes"):
        for ours, theirs in zip(*(getattr(plan, name).flatten(1).T for plan in (real, fake)), strict=True):
            assert ks_2samp(ours, theirs).pvalue > 1e-4, name


def test_p_is_a_probability():
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="p must be from 0 to 1"):
            draw(Ada(), p, 1, 3, 16, streams(0))
