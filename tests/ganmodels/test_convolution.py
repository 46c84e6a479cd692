import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from ganmodels.convolution import Conv2d, _How, convolve
from ganmodels.kinks import RecordedKinks
from ganmodels.rectifier import leaky_relu

# Widths, side of the kernel, stride, padding, groups.
KINDS = {"grouped": (4, 6, 3, 1, 1, 2), "halving": (3, 4, 4, 2, 1, 1), "1x1": (4, 4, 1, 1, 0, 1)}


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(kind: str, bias: bool = True) -> tuple[Conv2d, nn.Conv2d, torch.Tensor]:
    """Ours, torch's with the same weights, and an image that both take."""
    a, b, side, stride, padding, groups = KINDS[kind]
    ours, theirs = (
        make(a, b, side, stride, padding, groups=groups, bias=bias).double() for make in (Conv2d, nn.Conv2d)
    )
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, drawn(2, a, 6, 6).requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind, bias):
    ours, _, x = pair(kind, bias)

    def run(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        return convolve(x, weights[0], weights[1] if bias else None, ours.stride[0], ours.padding[0], ours.groups)

    assert gradcheck(run, (x, *ours.parameters()))
    assert gradgradcheck(run, (x, *ours.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_penalty_has_torchs_gradients(kind):
    *networks, x = pair(kind)
    found = []
    for network in networks:
        y = network(x)
        (slope,) = torch.autograd.grad(F.leaky_relu(y, 0.2).sin().sum(), x, create_graph=True)
        loss = slope.square().sum() + y.square().sum()
        found.append((y, *torch.autograd.grad(loss, [x, *network.parameters()])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_derivative_by_the_image_does_not_pay_for_that_by_the_weight(monkeypatch):
    calls, by_weight = [], _How.by_weight
    monkeypatch.setattr(_How, "by_weight", lambda *given: calls.append(1) or by_weight(*given))
    ours, _, x = pair("grouped")
    y = ours(leaky_relu(ours(x).repeat(1, 2, 1, 1)[:, :4], 0.2))
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert not calls
    (slope.square().sum() + y.sum()).backward()
    assert len(calls) == 4  # two layers, by the loss and by the penalty


@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias",), ("weight", "bias")])
@pytest.mark.parametrize("of_image", [False, True])
def test_what_is_frozen_keeps_no_gradient_from_the_rest(frozen, of_image):
    *networks, x = pair("grouped")
    x.requires_grad_(of_image)
    found = []
    for network in networks:
        for name, weight in network.named_parameters():
            weight.requires_grad_(name not in frozen)
        wanted = [each for each in (x, *network.parameters()) if each.requires_grad]
        if not wanted:
            assert not network(x).requires_grad
            continue
        first = torch.autograd.grad(network(x).square().sum(), wanted, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(each.square().sum() for each in first), wanted)])
    for ours, theirs in zip(*found, strict=True) if found else ():
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_autocast_leaves_float64_alone_as_torch_does():
    ours, theirs, x = pair("grouped")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_keeps_channels_last_and_autocasts():
    ours, theirs, x = pair("grouped")
    last = x.detach().float().contiguous(memory_format=torch.channels_last).requires_grad_()
    for network in (ours, theirs):
        network.float().to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = network(last)
        (slope,) = torch.autograd.grad(y.float().square().sum(), last, create_graph=True)
        slope.square().sum().backward()
        assert y.dtype == torch.bfloat16 and slope.dtype == torch.float32
        assert all(each.is_contiguous(memory_format=torch.channels_last) for each in (y, slope))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and one.grad.dtype == torch.float32
        torch.testing.assert_close(one.grad, other.grad, rtol=0.05, atol=0.05 * other.grad.abs().max().item())


@pytest.mark.parametrize("inplace", [False, True])
def test_the_leaky_relu_is_torchs(inplace):
    x, y, found = drawn(3, 5).requires_grad_(), drawn(3, 5, seed=2), []
    for leaky in (lambda x: leaky_relu(x * 1, 0.2, inplace), lambda x: F.leaky_relu(x, 0.2)):
        (slope,) = torch.autograd.grad((leaky(x) * y).sin().sum(), x, create_graph=True)
        found.append((leaky(x), slope, *torch.autograd.grad(slope.square().sum(), x)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    given = drawn(2, 3)
    assert (leaky_relu(given, 0.2, inplace) is given) is inplace
    assert gradcheck(lambda x: leaky_relu(x * 1, 0.2, inplace), x)
    assert gradgradcheck(lambda x: leaky_relu(x * 1, 0.2, inplace), x)


def test_whoever_looks_for_torchs_leaky_relu_finds_it():
    with RecordedKinks() as kinks:
        leaky_relu(torch.tensor([-1.0, 2.0]), 0.2)
    assert [call.tolist() for call in kinks.calls] == [[False, True]]
