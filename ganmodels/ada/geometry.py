"""Where an image's points go, as 3x3 matrices on (x, y, 1) in pixels from its centre, and images moved by them."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ganmodels.ada import wavelets
from ganmodels.linear import linear_map, on_rows


def scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], -1))


def translation(x: Tensor, y: Tensor) -> Tensor:
    matrix = torch.eye(3, dtype=x.dtype).repeat(len(x), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def rotation(cosine: Tensor, sine: Tensor) -> Tensor:
    matrix = scaling(cosine, cosine)
    matrix[:, 0, 1], matrix[:, 1, 0] = -sine, sine
    return matrix


def moved(images: Tensor, geometry: Tensor) -> Tensor:
    """Images `(n, c, size, size)`, each point moved by its row of `geometry` `(n, 3, 3)`, mirrored beyond the borders.

    What sends pixels to pixels (flips, quarter turns, whole translations) is a copy of them; all else goes
    through twice the resolution and wavelets, and is exact to rounding where it has nothing to do.
    """
    still = (geometry == torch.eye(3, dtype=geometry.dtype)).flatten(1).all(1)
    whole = (geometry == geometry.round()).flatten(1).all(1)
    source = torch.linalg.inv(geometry)  # where each point comes from
    images = on_rows(images, whole & ~still, _copied, source.round())
    return on_rows(images, ~whole, _resampled, source)


def _copied(images: Tensor, source: Tensor) -> Tensor:
    size = images.shape[-1]
    here = torch.arange(size, dtype=source.dtype, device=source.device) - (size - 1) / 2
    x, y = (wavelets.reflected((p + (size - 1) / 2).round().long(), size - 1) for p in _mapped(source, here))
    index = (y * size + x).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view(images.shape)


def _resampled(images: Tensor, source: Tensor) -> Tensor:
    size = images.shape[-1]
    last = 2 * size - 2
    half_pixels = torch.arange(-wavelets.MARGIN, last + wavelets.MARGIN + 1, device=source.device)
    finer = source * source.new_tensor([1, 1, 2])  # distances double, directions stay
    mapped = _mapped(finer.to(images.dtype), (half_pixels - last / 2).to(images.dtype))
    x, y = (wavelets.reflected(position + last / 2, last) for position in mapped)

    def there(images: Tensor) -> Tensor:
        fine = wavelets.doubled(wavelets.doubled(images, -1), -2)
        moved = grid_sample(fine, torch.stack([x, y], -1) * (2 / last) - 1, padding_mode="border", align_corners=True)
        return wavelets.halved(wavelets.halved(moved, -2), -1)

    def back(gradient: Tensor) -> Tensor:
        moved = wavelets.halved_transposed(wavelets.halved_transposed(gradient, -1), -2)
        fine = _scattered(moved, x, y, last + 1)
        return wavelets.doubled_transposed(wavelets.doubled_transposed(fine, -2), -1)

    return linear_map(images, there, back)


def _scattered(values: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    """The transpose of bilinear sampling at pixels x and y `(n, h, w)` of a `size` by `size` image.

    Torch's own has no derivative, and on CUDA no deterministic way; a scatter has both.
    """
    left, top = x.floor().clamp_(max=size - 2), y.floor().clamp_(max=size - 2)
    index = (top * size + left).long().flatten(1)[:, None].expand(-1, values.shape[1], -1)
    image = values.new_zeros(*values.shape[:2], size * size)
    right, bottom = (x - left)[:, None], (y - top)[:, None]
    for offset, share in ((0, 1 - bottom), (size, bottom)):
        row = values * share
        after = row * right
        image[..., offset:].scatter_add_(2, index, (row - after).flatten(2))
        image[..., offset + 1 :].scatter_add_(2, index, after.flatten(2))
    return image.view(*values.shape[:2], size, size)


def _mapped(matrix: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """x and y `(n, size, size)` of where the matrices take the points whose coordinates along each axis are `here`."""
    along_x, along_y, moved_by = matrix[:, :2, :, None, None].unbind(2)
    x, y = (along_x * here + along_y * here[:, None] + moved_by).unbind(1)
    return x, y
