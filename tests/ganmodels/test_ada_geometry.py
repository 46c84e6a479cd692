import math

import pytest
import torch
from torch.nn.functional import pad

from ganmodels.ada.geometry import moved, rotation, scaling, translation
from ganmodels.ada.plan import Ada, draw
from ganmodels.randomness import generator

NUDGE = 1e-9  # pixels: enough to make a matrix no matrix of whole numbers


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=generator(0, "images")) * 2 - 1


def one(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def wave(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cos(0.25 * x + 0.5) * torch.cos(0.2 * y - 0.3)


def pixels(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    here = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.broadcast_tensors(here, here[:, None])


def geometry(rows: int = 500, size: int = 32) -> torch.Tensor:
    return draw(Ada(), 1.0, rows, 3, size, [generator(0, 0, "augment", 0)]).geometry


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (scaling(*one(-1, 1)), lambda x: x.flip(-1)),
        (rotation(*one(0, 1)), lambda x: x.rot90(1, (3, 2))),  # clockwise on the screen, where y points down
        (rotation(*one(-1, 0)), lambda x: x.rot90(2, (2, 3))),
        (rotation(*one(0, -1)), lambda x: x.rot90(1, (2, 3))),
        (translation(*one(2, -3)), lambda x: pad(x, (2, 2, 3, 3), mode="reflect")[..., 6:, : x.shape[-1]]),
    ],
)
@pytest.mark.parametrize("size", [16, 15])
def test_blits_are_copies_of_pixels(matrix, expected, size):
    x = drawn(1, 3, size, size)
    assert moved(x, matrix).equal(expected(x))
    # The general way comes to the same, at the borders too.
    torch.testing.assert_close(moved(x, translation(*one(NUDGE, 0)) @ matrix), expected(x), rtol=0, atol=1e-7)


def test_a_whole_translation_is_a_roll_away_from_the_borders():
    x = drawn(1, 3, 16, 16)
    y = moved(x, translation(*one(2, -1)))
    assert y[..., :15, 2:].equal(x.roll((-1, 2), (2, 3))[..., :15, 2:])


def test_every_drawn_matrix_inverts():
    matrices = geometry(2000)
    identity = torch.eye(3, dtype=torch.float64).expand_as(matrices)
    torch.testing.assert_close(matrices @ torch.linalg.inv(matrices), identity, rtol=0, atol=1e-10)
    assert matrices[:, 2].equal(identity[:, 2])  # affine
    assert torch.linalg.det(matrices).abs().min() > 0.1


@pytest.mark.parametrize(
    "matrix",
    [
        rotation(*one(math.cos(0.7), math.sin(0.7))),
        scaling(*one(1.3, 1.3)),
        scaling(*one(0.8, 1.25)),
        translation(*one(3.3, -2.6)),
        translation(*one(1.5, 2.25)) @ rotation(*one(math.cos(2), math.sin(2))) @ scaling(*one(1.1, 0.9)),
    ],
)
def test_a_wave_moves_as_its_formula_does(matrix):
    size, margin = 48, 14
    x, y = pixels(size)
    source = torch.linalg.inv(matrix)[0]
    back_x, back_y = (source[row, 0] * x + source[row, 1] * y + source[row, 2] for row in (0, 1))
    result = moved(wave(x, y)[None, None], matrix)[0, 0]
    middle = slice(margin, -margin)
    expected = wave(back_x, back_y)
    assert (expected - wave(x, y))[middle, middle].abs().max() > 0.1
    torch.testing.assert_close(result[middle, middle], expected[middle, middle], rtol=0, atol=0.01)


def test_moved_and_moved_back_agrees_in_the_middle():
    size, middle = 64, slice(26, -26)
    matrices = geometry(64, size)
    image = wave(*pixels(size)).expand(64, 1, size, size)
    near = matrices.clone()
    near[:, :2, 2] /= 2  # else the middle itself leaves the image
    back = moved(moved(image, near), torch.linalg.inv(near))
    torch.testing.assert_close(back[..., middle, middle], image[..., middle, middle], rtol=0, atol=0.06)


def test_shrinking_does_not_alias():
    """A wave of 0.85 pi a pixel has no place at six tenths of the size: plain sampling makes it one of 0.58 pi."""
    size = 64
    x, _ = pixels(size)
    fine = torch.cos(0.85 * math.pi * x)[None, None].expand(1, 1, size, size)
    result = moved(fine, scaling(*one(0.6, 0.6)))
    middle = result[..., 20:-20, 20:-20]
    assert middle.std() < 0.25 * fine.std()


@pytest.mark.parametrize("matrix", [rotation(*one(0, 1)), rotation(*one(0.6, 0.8)), translation(*one(1, 0))])
def test_first_and_second_derivatives(matrix):
    x = drawn(1, 2, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: moved(x, matrix), x)
    assert torch.autograd.gradgradcheck(lambda x: moved(x, matrix).square(), x)


def test_an_image_in_a_batch_moves_as_it_does_alone():
    matrices, x = geometry(8, 16), drawn(8, 3, 16, 16)
    together = moved(x, matrices)
    for row in range(8):
        torch.testing.assert_close(together[row], moved(x[row, None], matrices[row, None])[0], rtol=0, atol=1e-13)
