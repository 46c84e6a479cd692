import math

import pytest
import torch

from ganmodels.ada.colour import colour_matrix, recoloured
from ganmodels.randomness import generator

AXIS = torch.ones(3, dtype=torch.float64) / 3**0.5


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=generator(seed, "colour")) * 2 - 1


def matrix(brightness=0.0, contrast=1.0, luma=1.0, hue=0.0, saturation=1.0) -> torch.Tensor:
    values = (brightness, contrast, luma, hue, saturation)
    return colour_matrix(*(torch.tensor([value], dtype=torch.float64) for value in values))


def homogeneous(linear: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
    result = torch.eye(4, dtype=torch.float64)
    result[:3, :3], result[:3, 3] = linear, shift
    return result


def test_the_matrix_is_the_product_of_the_papers_five():
    brightness, contrast, angle, saturation = 0.3, 1.4, 0.8, 2.1
    identity, outer = torch.eye(3, dtype=torch.float64), torch.outer(AXIS, AXIS)
    cross = torch.linalg.cross(AXIS.expand(3, 3), identity).T  # cross @ v = AXIS x v
    five = [
        homogeneous(identity, brightness),
        homogeneous(contrast * identity),
        homogeneous(identity - 2 * outer),
        homogeneous(torch.linalg.matrix_exp(angle * cross)),
        homogeneous(outer + saturation * (identity - outer)),
    ]
    product = five[4] @ five[3] @ five[2] @ five[1] @ five[0]
    torch.testing.assert_close(matrix(brightness, contrast, -1, angle, saturation)[0], product, rtol=0, atol=1e-14)


def test_hue_keeps_luma_and_saturation_and_comes_round():
    image = drawn(1, 3, 5, 5)
    for angle in (0.1, 1.0, math.pi, -2.5):
        turned = recoloured(image, matrix(hue=angle))
        torch.testing.assert_close(turned.mean(1), image.mean(1), rtol=0, atol=1e-14)
        torch.testing.assert_close(turned.norm(dim=1), image.norm(dim=1), rtol=0, atol=1e-14)
        assert (turned - image).abs().max() > 0.02
    torch.testing.assert_close(recoloured(image, matrix(hue=2 * math.pi)), image, rtol=0, atol=1e-14)
    third = recoloured(image, matrix(hue=2 * math.pi / 3))  # a third of a turn swaps the channels round
    torch.testing.assert_close(third, image.roll(1, 1), rtol=0, atol=1e-14)


def test_luma_flip_negates_grey_and_leaves_hue():
    image = drawn(1, 3, 5, 5)
    flipped = recoloured(image, matrix(luma=-1))
    torch.testing.assert_close(flipped.mean(1), -image.mean(1), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        flipped - flipped.mean(1, keepdim=True), image - image.mean(1, keepdim=True), rtol=0, atol=1e-14
    )


def test_matrices_invert():
    many = colour_matrix(drawn(100), drawn(100).exp2(), drawn(100).sign(), drawn(100) * math.pi, drawn(100).exp2())
    product = many @ torch.linalg.inv(many)
    torch.testing.assert_close(product, torch.eye(4, dtype=torch.float64).expand(100, 4, 4), rtol=0, atol=1e-12)


def test_grey_is_a_grey_rgb_image():
    grey, change = drawn(1, 1, 5, 5), matrix(0.3, 1.4, -1, 0.8, 2.1)
    as_rgb = recoloured(grey.expand(1, 3, 5, 5), change)
    torch.testing.assert_close(recoloured(grey, change).expand(1, 3, 5, 5), as_rgb, rtol=0, atol=1e-14)
    assert recoloured(grey, matrix()).equal(grey)
    torch.testing.assert_close(recoloured(grey, matrix(hue=1.0, saturation=3.0)), grey, rtol=0, atol=1e-14)


def test_alpha_has_no_colour():
    image, change = drawn(2, 4, 5, 5), matrix(0.3, 1.4, -1, 0.8, 2.1).repeat(2, 1, 1)
    result = recoloured(image, change)
    assert result[:, 3].equal(image[:, 3])
    torch.testing.assert_close(result[:, :3], recoloured(image[:, :3], change), rtol=0, atol=1e-14)


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="images of 2 channels"):
        recoloured(drawn(1, 2, 5, 5), matrix())
