import pytest
import torch

from ganmodels.randomness import generator, image_latents, keyed_seed, latents, uniforms


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        ((), 0xE4A6A0577479B2B4),
        ((1,), 0xF99980EAEB4408DC),
        (("1",), 0x874A2536D9BE2B5B),
        ((0, 1, "noise", 7), 0x05C873E2B82EB170),
    ],
)
def test_seeds_never_change(key, digest):
    """By coreutils: printf 'int:0\\x1fint:1\\x1fstr:noise\\x1fint:7' | b2sum -l 64, less the last bit."""
    assert keyed_seed(*key) == digest >> 1


def test_latents_never_change():
    """A torch that draws other numbers changes every run: raise the numerics version along with these."""
    expected = [[0.2044, 0.3132, -0.5467]]
    torch.testing.assert_close(latents(1, 3, 0, 1, "noise", 7), torch.tensor(expected), rtol=0, atol=1e-4)


def test_uniforms_never_change_and_fill_the_unit_interval():
    torch.testing.assert_close(uniforms(3, 0, 1, "mix", 7), torch.tensor([0.7333, 0.4202, 0.8374]), rtol=0, atol=1e-4)
    many = uniforms(4096, 0, "mix")
    assert many.dtype == torch.float32 and many.min() >= 0 and many.max() < 1
    assert abs(many.mean().item() - 1 / 2) < 0.01 and abs(many.var().item() - 1 / 12) < 0.003


def test_parts_of_a_key_are_told_apart():
    keys = [(1, 2), (2, 1), (12,), ("1", 2), (1, "2"), ("12",), (1, 2, ""), (1, 2, 0), (-1, 2)]
    assert len({keyed_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= keyed_seed(*key) < 2**63 for key in keys)


def test_draws_depend_on_the_key_alone():
    first = latents(4, 8, 0, "noise")
    torch.manual_seed(5)
    torch.randn(3)
    before = torch.get_rng_state()
    assert latents(4, 8, 0, "noise").equal(first)
    assert torch.get_rng_state().equal(before)
    assert not latents(4, 8, 1, "noise").equal(first)
    assert generator(0).device.type == "cpu"


def test_an_images_latents_depend_on_its_seed_and_number_alone():
    many = image_latents(0, 20, 5, seed=3)
    assert many.shape == (20, 5) and many.dtype == torch.float32
    for first, count in [(0, 1), (0, 15), (7, 1), (5, 15), (19, 1)]:
        assert image_latents(first, count, 5, seed=3).equal(many[first : first + count])
    assert len(many.unique(dim=0)) == 20
    assert not image_latents(0, 20, 5, seed=4).equal(many)
    assert image_latents(5, 0, 5, seed=3).shape == (0, 5)


def test_latents_are_standard_normal():
    z = latents(4096, 64, 0, "noise")
    assert abs(z.mean().item()) < 0.01 and abs(z.std().item() - 1) < 0.01
