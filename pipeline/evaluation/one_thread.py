"""One thread an operation: parallel work is better shared out in larger pieces."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's operations run on one thread inside, in threads started inside too.

    An operation's threads wait for each other, in an eigendecomposition at every column. Where anything else runs
    on the machine, that is slower than one thread: 1.3 s against 0.13 s for a 1264 x 1264 `eigvalsh` on two cores.
    Nor do sums depend on the number of cores then. The setting is the whole process's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
