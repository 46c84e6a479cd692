"""Images/s of an R3GAN step on a CPU, against the same function as torch's own layers do it there.

    python tests/benchmarks/r3gan.py [--bf16] [--pairs 20] [--out r3gan.json]

Widths 128, 128, 64, 32 from the smallest map up, 32 px, batch 64, two threads; relativistic loss, exact R1 and R2 at
each step. The other side resamples with one-channel convolutions on as many planes as there are images and channels,
in contiguous float32. First that both are the same function: images and logits in float32 to 1e-5 of the largest, one
step's gradients of both networks in float64. Also where the time of a step goes, by torch's profiler. Exit code 1 if
the function is another, or ours is not twice as fast in float32, or 2.8 times in bf16.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from plain_networks import plain
from pngs import report
from steps import BATCH, ours, plainest
from torch import Tensor, nn
from torch.nn import functional as F
from turns import race, side, told

from ganmodels.networks import build_discriminator, build_generator
from ganmodels.objective import AdversarialObjective, Objective
from ganmodels.penalties import Weights
from ganmodels.spec import NetworkSpec

FLOAT32, BF16, APART = 2.0, 2.8, 1e-5
GRADIENTS_APART = 1e-10  # in float64: in float32 a few units fall on the other side of their kink
SPEC = NetworkSpec("r3gan", 32, 3, widths=(128, 128, 64, 32))
RECIPE = {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "penalty_every": 1}
# Of the profiler's names: what each begins with, by what it is.
KINDS = {
    "convolutions": ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::_slow_conv2d", "aten::slow_conv",
                     "aten::thnn_conv", "aten::_convolution"),
    "leaky ReLU": ("aten::leaky_relu",),
    "additions and products": ("aten::add", "aten::mul", "aten::sum", "aten::sub"),
    "copies and fills": ("aten::copy_", "aten::clone", "aten::zero_", "aten::fill_", "aten::contiguous", "aten::cat"),
    "Adam and the average": ("aten::_fused_adam", "aten::_foreach", "aten::lerp_", "aten::addcmul_", "aten::addcdiv_",
                             "aten::sqrt"),
}  # fmt: skip


def furthest_apart(dtype: torch.dtype) -> tuple[float, float]:
    """Of images and logits, and of one step's gradients, to a share of the largest; with no weight at zero."""
    torch.manual_seed(0)
    pair = build_generator(SPEC), build_discriminator(SPEC)
    for network in pair:
        for weight in network.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.02)
    generator, discriminator = theirs = plain(SPEC, pair)
    for network in (*pair, *theirs):
        network.to(dtype)
    z, real = torch.randn(BATCH, SPEC.z_dim, dtype=dtype), torch.rand(BATCH, 3, 32, 32, dtype=dtype) * 2 - 1
    objective = AdversarialObjective(*pair, Objective("relativistic", rows_apart=True))
    objective(z, real, None, 1 / BATCH, Weights(r1=1.0, r2=1.0))[0].backward()

    fake = generator(z)
    F.softplus(discriminator(real) - discriminator(fake)).mean().backward()
    discriminator.zero_grad()
    at = real.requires_grad_(), fake.detach().requires_grad_()
    logits = [discriminator(x) for x in at]
    slopes = [torch.autograd.grad(of.sum(), x, create_graph=True)[0] for of, x in zip(logits, at, strict=True)]
    penalties = sum(slope.square().sum() for slope in slopes) / 2 / BATCH
    (F.softplus(logits[1] - logits[0]).mean() + penalties).backward()

    with torch.no_grad():
        values = [(pair[0](z), fake), (pair[1](real), logits[0])]
    gradients = []
    for one, other in zip(pair, theirs, strict=True):
        others = dict(other.named_parameters())
        gradients += [(weight.grad, others[name].grad) for name, weight in one.named_parameters()]
    return max(_apart(*both) for both in values), max(_apart(*both) for both in gradients)


def _apart(one: Tensor | None, other: Tensor | None) -> float:
    assert one is not None and other is not None
    return ((one - other).abs().max() / other.abs().max()).item()


def profiled(make: Callable[..., Callable[[], dict]], *given: object) -> Callable[[], dict[str, float]]:
    """Milliseconds of one step, by what they are spent on."""
    act = make(*given)
    for _ in range(2):
        act()

    def shares() -> dict[str, float]:
        with torch.profiler.profile() as profile:
            act()
        spent = dict.fromkeys((*KINDS, "the rest"), 0.0)
        for event in profile.key_averages():
            kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "the rest")
            spent[kind] += event.self_cpu_time_total / 1000
        return spent

    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(2)
    (apart, _), (_, gradients) = furthest_apart(torch.float32), furthest_apart(torch.float64)
    bar = BF16 if given.bf16 else FLOAT32
    with side(ours, SPEC, RECIPE, given.bf16) as mine, side(plainest, SPEC, RECIPE) as loop:
        found = race(mine, loop, 1, given.pairs, BATCH)
    spent = {}
    for name, sides in {"ours": (ours, SPEC, RECIPE, given.bf16), "other": (plainest, SPEC, RECIPE)}.items():
        with side(profiled, *sides) as profile:
            spent[name] = profile(0)
    report(
        [
            f"as functions {apart:.1e} apart (aim {APART})",
            f"their gradients in float64 {gradients:.1e} (aim {GRADIENTS_APART})",
            told(f"{'bf16' if given.bf16 else 'float32'}, to torch's own layers (aim {bar})", found),
            *(
                f"milliseconds of a step, {name}: "
                + ", ".join(f"{kind} {time:.0f}" for kind, time in sorted(of.items(), key=lambda each: -each[1]))
                for name, of in spent.items()
            ),
        ],
        {"apart": apart, "gradients_apart_in_float64": gradients, **found, "milliseconds": spent},
        given.out,
    )
    return int(apart > APART or gradients > GRADIENTS_APART or found["ratio"]["value"] < bar)


if __name__ == "__main__":
    sys.exit(main())
