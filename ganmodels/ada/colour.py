"""Colour as 4x4 matrices on (red, green, blue, 1); luma is along (1, 1, 1)."""

import torch
from torch import Tensor

from ganmodels.linear import linear_map, on_rows


def colour_matrix(brightness: Tensor, contrast: Tensor, luma: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """`(n, 4, 4)` for values `(n,)`: first brightness is added, then contrast multiplies; then luma's sign (1 or -1),
    hue's angle in radians, and what multiplies saturation.

    Luma and the plane across it go their own ways, so the product of the five is written down at once.
    """
    grey = torch.full((3, 3), 1 / 3, dtype=hue.dtype)
    turn = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=hue.dtype) / 3**0.5  # a quarter turn of hue
    along, across = contrast * luma, contrast * saturation
    matrix = torch.eye(4, dtype=hue.dtype).repeat(len(hue), 1, 1)
    matrix[:, :3, :3] = (
        along[:, None, None] * grey
        + (across * hue.cos())[:, None, None] * (torch.eye(3, dtype=hue.dtype) - grey)
        + (across * hue.sin())[:, None, None] * turn
    )
    matrix[:, :3, 3] = (along * brightness)[:, None]
    return matrix


def recoloured(images: Tensor, colour: Tensor) -> Tensor:
    """Images `(n, c, h, w)` under their rows of `colour` `(n, 4, 4)`.

    One channel is grey: red, green and blue alike, so hue and saturation leave it. A fourth channel is alpha,
    and stays. Raises ValueError for another number of channels.
    """
    channels = images.shape[1]
    if channels == 1:
        mean = colour[:, :3].mean(1, keepdim=True)
        colour = torch.cat([mean[..., :3].sum(-1, keepdim=True), mean[..., 3:]], -1)
    elif channels == 4:
        opaque = torch.eye(5, dtype=colour.dtype).repeat(len(colour), 1, 1)
        opaque[:, :3, :3], opaque[:, :3, 4] = colour[:, :3, :3], colour[:, :3, 3]
        colour = opaque[:, :4]
    elif channels == 3:
        colour = colour[:, :3]
    else:
        raise ValueError(f"images of {channels} channels have no colour: 1, 3 or 4 do")
    changed = (colour != torch.eye(channels, channels + 1, dtype=colour.dtype)).flatten(1).any(1)
    return on_rows(images, changed, _recoloured, colour)


def _recoloured(images: Tensor, colour: Tensor) -> Tensor:
    matrix, shift = colour.to(images.dtype).split([images.shape[1], 1], -1)
    pixels = linear_map(images.flatten(2), lambda x: matrix @ x, lambda y: matrix.mT @ y)
    return (pixels + shift).view(images.shape)
