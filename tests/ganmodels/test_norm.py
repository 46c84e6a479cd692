import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm

from ganmodels.norm import ConditionalBatchNorm2d, GlobalBatchNorm2d

WIDTH, CLASSES = 3, 4
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def drawn(*shape: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=draw)


def images(seed: int = 0) -> torch.Tensor:
    """Eight rows that differ in mean and spread, so that no rank's own statistics are the batch's."""
    rows = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None, None, None]
    return drawn(8, WIDTH, 4, 5, seed=seed) * rows / 4 + rows / 8


def test_agrees_with_torchs_batch_norm_forward_and_backward():
    ours, theirs = GlobalBatchNorm2d(WIDTH).double(), nn.BatchNorm2d(WIDTH, affine=False).double()
    x, weight = images(), drawn(8, WIDTH, 4, 5, seed=1)
    outputs, slopes = [], []
    for norm in (ours, theirs):
        leaf = x.clone().requires_grad_()
        outputs.append(norm(leaf))
        slopes += torch.autograd.grad((weight * outputs[-1]).sum(), leaf)
    torch.testing.assert_close(*outputs, **EXACT)
    torch.testing.assert_close(*slopes, **EXACT)


def test_running_statistics_follow_the_closed_form_over_two_batches():
    """Like torch's except in one thing: torch stores the unbiased variance, we the one that normalised."""
    ours, theirs = GlobalBatchNorm2d(WIDTH).double(), nn.BatchNorm2d(WIDTH, affine=False).double()
    first, second = images(0), images(1) * 2 - 1
    for batch in (first, second):
        ours(batch)
        theirs(batch)

    def averaged(start: float, moment) -> torch.Tensor:
        return 0.9 * (0.9 * start + 0.1 * moment(first)) + 0.1 * moment(second)

    torch.testing.assert_close(ours.running_mean, averaged(0, lambda x: x.mean((0, 2, 3))), **EXACT)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, **EXACT)
    torch.testing.assert_close(ours.running_var, averaged(1, lambda x: x.var((0, 2, 3), correction=0)), **EXACT)
    torch.testing.assert_close(theirs.running_var, averaged(1, lambda x: x.var((0, 2, 3), correction=1)), **EXACT)


def test_evaluation_uses_the_running_statistics_and_leaves_them():
    norm = GlobalBatchNorm2d(WIDTH).double()
    norm(images())
    norm.eval()
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    x = images(1)
    expected = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected, **EXACT)
    assert norm.running_mean.equal(mean) and norm.running_var.equal(var)


def test_bf16_images_have_their_statistics_in_float32():
    x = (drawn(64, 2, 16, 16, seed=0) * 0.1 + 3).bfloat16()  # a sum of 16,384 threes: bf16 stops counting at 256
    norm = GlobalBatchNorm2d(2, momentum=1.0)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(norm.running_mean, x.double().mean((0, 2, 3)).float(), rtol=1e-4, atol=0)
    torch.testing.assert_close(norm.running_var, x.double().var((0, 2, 3), correction=0).float(), rtol=1e-2, atol=0)


def conditional() -> ConditionalBatchNorm2d:
    norm = ConditionalBatchNorm2d(WIDTH, CLASSES).double()
    norm.scale.data, norm.shift.data = drawn(CLASSES, WIDTH, seed=2), drawn(CLASSES, WIDTH, seed=3)
    return norm


LABELS = torch.tensor([0, 1, 2, 0, 1, 0, 1, 2])  # and none of class 3


def test_conditional_scale_and_shift_are_the_rows_own():
    norm, x = conditional(), images()
    plain = GlobalBatchNorm2d(WIDTH).double()(x)
    y = norm(x, LABELS)
    for row, label in enumerate(LABELS):
        scale, shift = norm.scale[label][:, None, None], norm.shift[label][:, None, None]
        torch.testing.assert_close(y[row], plain[row] * scale + shift, **EXACT)


def test_without_classes_one_scale_and_shift_serve_all():
    norm, x = ConditionalBatchNorm2d(WIDTH, 0).double(), images()
    assert norm.scale.shape == norm.shift.shape == (1, WIDTH)
    norm.scale.data.fill_(2)
    norm.shift.data.fill_(-1)
    torch.testing.assert_close(norm(x, None), 2 * GlobalBatchNorm2d(WIDTH).double()(x) - 1, **EXACT)


def derivatives(x, y, parameters, rows) -> dict[str, np.ndarray]:
    """Of a loss over these rows: first ones by input and parameters, and a second one through them."""
    loss = (drawn(8, WIDTH, 4, 5, seed=4)[rows] * y.square()).sum()
    by_input, *by_parameters = torch.autograd.grad(loss, [x, *parameters], create_graph=True)
    (second,) = torch.autograd.grad((drawn(8, WIDTH, 4, 5, seed=5)[rows] * by_input).sum(), x)
    scale, shift = (value.detach().numpy() for value in by_parameters)
    rowwise = {"y": y, "by_input": by_input, "second": second}
    return {name: value.detach().numpy() for name, value in rowwise.items()} | {"scale": scale, "shift": shift}


def on_a_rank(rank: int, world: int, counts: list[int]) -> dict[str, np.ndarray]:
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    norm, x = conditional(), images()[rows].requires_grad_()
    values = derivatives(x, norm(x, LABELS[rows]), [norm.scale, norm.shift], rows)
    return values | {"mean": norm.norm.running_mean.numpy(), "var": norm.norm.running_var.numpy()}


@pytest.mark.parametrize("counts", [[8], [5, 3], [1, 7], [2, 5, 1]])
def test_uneven_ranks_make_one_batch(ranks, counts):
    norm, x = conditional(), images().requires_grad_()
    y = batch_norm(x, None, None, training=True)
    y = y * norm.scale[LABELS][:, :, None, None] + norm.shift[LABELS][:, :, None, None]
    expected = derivatives(x, y, [norm.scale, norm.shift], slice(None))
    answers = ranks.run(len(counts), on_a_rank, counts)
    for name in ("y", "by_input", "second"):  # each rank holds its own rows
        np.testing.assert_allclose(np.concatenate([a[name] for a in answers]), expected[name], **EXACT, err_msg=name)
    for name in ("scale", "shift"):  # each rank holds its own rows' part
        np.testing.assert_allclose(sum(a[name] for a in answers), expected[name], **EXACT, err_msg=name)
    for answer in answers:  # each rank holds the whole
        np.testing.assert_allclose(answer["mean"], 0.1 * images().mean((0, 2, 3)), **EXACT)
        np.testing.assert_allclose(answer["var"], 0.9 + 0.1 * images().var((0, 2, 3), correction=0), **EXACT)


def evaluated_by_rank_0(rank: int, world: int) -> float:
    norm = conditional().eval()
    return norm(images(), LABELS).sum().item() if rank == 0 else 0.0


def test_a_rank_can_evaluate_alone(ranks):
    """Rank 0 draws the sample grid; a collective there would wait for the others."""
    alone, other = ranks.run(2, evaluated_by_rank_0)
    assert alone == pytest.approx(evaluated_by_rank_0(0, 1), rel=1e-12)
    assert other == 0
