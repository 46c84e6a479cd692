"""Memory that a step gave back stays with the process, for the next step.

glibc maps every large tensor anew and gives it back when it is freed, and the kernel clears each page of it at its
first touch, step after step.
"""

import ctypes
import sys

# From malloc.h: the options' numbers.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
# Bytes of what a thread that is not the first allocates from, which goes back without such a pad. What does not fit
# into one is mapped anew whatever is asked here.
_HEAP = 64 << 20


def keep_memory() -> None:
    """For this process, from now on: tensors of any size in its first thread, and in others, such as Ray's, those of
    less than 64 MiB. Other allocators, and other systems, are left as they are."""
    if sys.platform != "linux":
        return
    options = getattr(ctypes.CDLL(None), "mallopt", None)
    if options is None:
        return
    options(_MMAP_MAX, 0)
    options(_TRIM_THRESHOLD, -1)
    options(_TOP_PAD, _HEAP)
