"""Random draws that are a function of a key, so that there is no generator state to save.

Two processes that ask for the same key get the same numbers, whatever either drew before.
"""

import hashlib

import torch

Key = int | str


def keyed_seed(*key: Key) -> int:
    """A 63-bit seed from the key's parts; `1` and `"1"` are different parts."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*key: Key) -> torch.Generator:
    """A CPU generator for this key, conventionally `(seed, step, purpose, stream)`.

    Always on the CPU: CUDA draws other numbers, and a run must not depend on where it runs.
    """
    return torch.Generator().manual_seed(keyed_seed(*key))


def latents(count: int, z_dim: int, *key: Key) -> torch.Tensor:
    """Standard normal latents `(count, z_dim)`, float32."""
    return torch.randn(count, z_dim, generator=generator(*key))


def uniforms(count: int, *key: Key) -> torch.Tensor:
    """Numbers `(count,)` spread evenly over [0, 1), float32."""
    return torch.rand(count, generator=generator(*key))


def image_latents(first: int, count: int, z_dim: int, seed: int) -> torch.Tensor:
    """Latents `(count, z_dim)` of images `first .. first + count - 1`.

    Image `i` depends on `(seed, i)` alone, never on how many were asked for
    (`randn(15)` is not `randn(16)[:15]`, so each row is a draw of its own).
    """
    rows = [latents(1, z_dim, seed, "image", index) for index in range(first, first + count)]
    return torch.cat(rows) if rows else torch.empty(0, z_dim)
