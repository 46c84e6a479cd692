"""Which precision a run trains in."""

import torch


def resolve_precision(wanted: str) -> str:
    """`auto` becomes `bf16` where this machine's GPU or CPU multiplies bf16 natively, else `fp32`.

    It goes into the run's identity, so a recipe for a cluster unlike the driver's machine names one itself.
    """
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    flags = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return "bf16" if any(getattr(torch.cpu, flag, lambda: False)() for flag in flags) else "fp32"
