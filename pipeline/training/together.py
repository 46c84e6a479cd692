"""Work that the ranks of a run share: who does what, its rows gathered, and a failure on one known to all.

Rows are gathered by adding up matrices that are zero where a rank has none: that is exact, takes any sizes, and works
on any backend. Tensors are on the `device` that the backend wants: NCCL's on the rank's GPU.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from ganmodels.ranks import sum_over_ranks, world_size

T = TypeVar("T")


class Failed(Exception):
    """Raised on every rank, because of `why` on one: None on the others. `kind` is its place among those caught."""

    def __init__(self, kind: int, why: Exception | None):
        super().__init__(str(why))
        self.kind, self.why = kind, why


def rank_and_world() -> tuple[int, int]:
    world = world_size()
    return (dist.get_rank() if world > 1 else 0), world


def share(total: int, batch: int) -> range:
    """This rank's part of `range(total)`: it begins and ends between batches, so that a row is where it would be in
    its batch without the others."""
    rank, world = rank_and_world()
    batches = -(-total // batch)
    first, last = (batches * end // world * batch for end in (rank, rank + 1))
    return range(min(first, total), min(last, total))


def attempt(act: Callable[[], T], caught: tuple[type[Exception], ...], device: torch.device) -> T:
    """What `act` gives. Raises Failed on every rank where it raises one of `caught` on any; the first such has `why`.

    `kind` is the first of `caught` that fits. Anything else is raised as it is, on its rank alone.
    """
    rank, world = rank_and_world()
    problem: Exception | None = None
    try:
        result = act()
    except caught as error:
        problem = error
    codes = torch.zeros(world, dtype=torch.int64, device=device)
    codes[rank] = _kind(problem, caught)
    for first, code in enumerate(sum_over_ranks(codes).tolist()):
        if code:
            raise Failed(code - 1, problem if first == rank else None)
    return result


def _kind(problem: Exception | None, caught: tuple[type[Exception], ...]) -> int:
    """From 1; 0 for no problem."""
    if problem is None:
        return 0
    return 1 + next(number for number, kind in enumerate(caught) if isinstance(problem, kind))


def gathered(own: np.ndarray | None, rows: range, total: int, dtype: torch.dtype, device: torch.device) -> np.ndarray:
    """`(total, d)` on every rank. Each has its `rows`, `(len(rows), d)`: a rank without any has None."""
    width = torch.zeros((), dtype=torch.int64, device=device)
    width += 0 if own is None else own.shape[1]
    if world_size() > 1:
        dist.all_reduce(width, dist.ReduceOp.MAX)
    whole = torch.zeros(total, int(width), dtype=dtype, device=device)
    if own is not None:
        whole[rows.start : rows.stop] = torch.from_numpy(own).to(device)
    return sum_over_ranks(whole).cpu().numpy()
