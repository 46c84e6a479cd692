import torch

from ganmodels.pairs import joined, parted


def test_parts_are_what_was_joined_in_any_memory_layout():
    images, latents = torch.randn(3, 4, 5, 5).contiguous(memory_format=torch.channels_last), torch.randn(3, 7)
    pairs = joined(images, latents)
    assert pairs.shape == (3, 4 * 25 + 7, 1, 1)
    back = parted(pairs, images.shape[1:])
    assert back[0].equal(images) and back[1].equal(latents)
