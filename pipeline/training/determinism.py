"""The same bits from the same state on a GPU too, without which a resumed run would not be the run left alone."""

import os

import torch


def be_deterministic(device: torch.device) -> None:
    """To be called before anything is computed. On CUDA sums of scattered values (a convolution's gradient, an image
    moved by ADA) are otherwise added in whatever order threads come; what has no fixed order raises RuntimeError.

    CPUs have one anyway, at a given number of threads. https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS has it from here alone, and from the start
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written; to fill it first would cost.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
