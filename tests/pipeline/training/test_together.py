"""What ranks do together."""

import numpy as np
import pytest
import torch

from pipeline.training.together import Failed, attempt, gathered, share

CPU = torch.device("cpu")
CAUGHT = (KeyError, LookupError, OSError)


def gather(rank: int, world: int, total: int, batch: int) -> tuple[range, np.ndarray, np.ndarray]:
    rows = share(total, batch)
    every = np.random.default_rng(0).normal(size=(total, 3)).astype(np.float32)
    numbers = np.arange(total)[:, None] * 2**40
    return (
        rows,
        gathered(every[rows.start : rows.stop] if rows else None, rows, total, torch.float32, CPU),
        gathered(numbers[rows.start : rows.stop] if rows else None, rows, total, torch.int64, CPU),
    )


@pytest.mark.parametrize(("total", "batch"), [(200, 64), (64, 64), (65, 64), (7, 1), (4, 64)])
def test_every_rank_has_all_rows_bit_for_bit_however_few_its_own_are(ranks, total, batch):
    every = np.random.default_rng(0).normal(size=(total, 3)).astype(np.float32)
    for world in (1, 2, 3):
        answers = ranks.run(world, gather, total, batch)
        shares = [rows for rows, *_ in answers]
        assert [i for rows in shares for i in rows] == list(range(total))
        assert all(rows.start % batch == 0 for rows in shares if rows)
        for _, floats, whole in answers:
            np.testing.assert_array_equal(floats, every)
            np.testing.assert_array_equal(whole[:, 0], np.arange(total) * 2**40)


def failing(rank: int, world: int, where: list[int], error: str) -> list:
    """What came of an attempt that fails on some ranks, and of the next."""

    def act() -> int:
        if rank in where:
            raise {"key": KeyError, "os": OSError}[error](f"of rank {rank}")
        return 10 + rank

    answers: list = []
    try:
        answers.append(attempt(act, CAUGHT, CPU))
    except Failed as failed:
        answers.append((failed.kind, failed.why and str(failed.why.args[0])))
    return [*answers, attempt(lambda: rank, CAUGHT, CPU)]


def test_a_failure_on_any_rank_is_one_on_all_and_the_first_says_why(ranks):
    assert ranks.run(3, failing, [], "os") == [[10, 0], [11, 1], [12, 2]]
    assert ranks.run(3, failing, [2, 1], "os") == [[(2, None), 0], [(2, "of rank 1"), 1], [(2, None), 2]]
    assert ranks.run(2, failing, [0], "key") == [[(0, "of rank 0"), 0], [(0, None), 1]]
    assert ranks.run(1, failing, [0], "os") == [[(2, "of rank 0"), 0]]


def test_what_nobody_expects_is_raised_as_it_is():
    def act() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        attempt(act, CAUGHT, CPU)
