"""What can be said of a GPU without one: the switch is set, and no step needs what it would refuse."""

import os

import pytest
import torch
from small_networks import small
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config import Training
from pipeline.training.determinism import be_deterministic
from pipeline.training.state import fresh_state
from pipeline.training.step import make_step

pytestmark = pytest.mark.usefixtures("one_thread")

# From the docstring of torch.use_deterministic_algorithms, of torch 2.13: what raises on CUDA.
REFUSED = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "_ctc_loss_backward",
    "_embedding_bag_dense_backward", "adaptive_max_pool2d_backward", "avg_pool3d_backward", "bincount", "cumsum",
    "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "grid_sampler_2d_backward",
    "grid_sampler_3d_backward", "histc", "max_unpool2d", "max_unpool3d", "median", "nll_loss2d_forward", "put", "put_",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward", "scatter_reduce",
    "upsample_bicubic2d_backward", "upsample_bilinear2d_backward", "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}  # fmt: skip
STEPS = {
    "dcgan": {"augment": "diffaugment", "loss": "relativistic_average"},
    "resnet": {"augment": "ada", "augment_p": 1.0, "gp": 1.0},
    "r3gan": {"loss": "relativistic", "r2": 1.0, "penalty_method": "finite_difference"},
    "stylegan2": {
        "augment": "ada", "augment_p": 1.0, "augment_operations": {"imgfilter": 1, "noise": 1, "cutout": 1},
    },
}  # fmt: skip


class Called(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def called(act) -> set[str]:
    with Called() as calls:
        act()
    return calls.names


@pytest.mark.parametrize(("family", "recipe"), STEPS.items(), ids=STEPS)
def test_no_step_needs_what_a_gpu_has_no_fixed_order_for(family, recipe):
    options = {"attention": 8, "spectral_norm": "both", "bigan": True} if family == "resnet" else {}
    spec = small(family, channels=3, classes=3, **options)
    training = Training.model_validate({"batch": 16, **recipe})
    state = fresh_state(spec, training, torch.device("cpu"))
    step = make_step(state, training, spec=spec, streams=range(8), all_streams=8, bf16=True)
    images, labels = torch.zeros(16, 3, 16, 16, dtype=torch.uint8), torch.arange(16) % 3
    names = called(lambda: step(images, labels, False))
    assert "convolution_backward" in names
    assert "grid_sampler_2d" in names or recipe.get("augment") != "ada"
    assert not names & REFUSED


def test_what_is_refused_would_be_seen():
    def moved() -> None:
        x, grid = torch.ones(1, 1, 4, 4, requires_grad=True), torch.zeros(1, 4, 4, 2)
        torch.nn.functional.grid_sample(x, grid, align_corners=True).sum().backward()

    assert called(moved) & REFUSED == {"grid_sampler_2d_backward"}


def test_a_gpu_is_told_to_add_in_a_fixed_order(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    be_deterministic(torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        be_deterministic(torch.device("cuda", 0))
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
