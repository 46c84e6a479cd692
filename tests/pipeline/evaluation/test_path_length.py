import numpy as np
import pytest
import torch
from small_networks import small, well_mixed

from ganmodels.networks import FAMILIES
from ganmodels.spec import NetworkSpec
from pipeline.evaluation.generated import BadGenerator
from pipeline.evaluation.path_length import path_length
from pipeline.registry.generator import Generator


class Linear(torch.nn.Module):
    """Pixels are latents times `scale`; a class has its own brightness, which no step along a path changes."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, z, labels, truncation=1.0):
        made = z.reshape(len(z), 1, 16, 16) * self.scale
        return made if labels is None else made + labels[:, None, None, None] * 0.1


class Levels:
    name = "levels"

    def of_levels(self, levels: torch.Tensor) -> np.ndarray:
        return levels.flatten(1).numpy() / 127.5


def of(network: torch.nn.Module, classes: int = 0, labels: np.ndarray | None = None) -> float:
    generator = Generator(network, NetworkSpec("dcgan", 16, 1, classes=classes, z_dim=256))
    return path_length(generator, 200, 0, labels, Levels(), lambda count: None)


def test_of_a_linear_generator_it_is_the_squared_speed_along_the_arc():
    """A quarter of a circle of radius 16 at an even speed: (16 pi / 2)^2 where latents are nearly orthogonal."""
    speed = (16 * np.pi / 2) ** 2
    assert of(Linear(0.01)) == pytest.approx(0.01**2 * speed, rel=0.03)
    assert of(Linear(0.02)) == pytest.approx(4 * of(Linear(0.01)), rel=0.03)
    assert of(Linear(0.01)) == of(Linear(0.01))


def test_both_ends_of_a_path_are_of_one_class():
    labels = np.arange(200) % 3
    assert of(Linear(0.01), 3, labels) == pytest.approx(of(Linear(0.01)), rel=0.03)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_without_labels_a_generator_with_classes_makes_all_in_turn(family):
    spec = small(family, channels=3, classes=3)
    generator = Generator(well_mixed(spec)[0], spec)
    asked, in_turn = (
        path_length(generator, 6, 0, one, Levels(), lambda count: None) for one in (None, np.arange(6) % 3)
    )
    assert asked == in_turn
    assert asked != path_length(generator, 6, 0, np.zeros(6, int), Levels(), lambda count: None)


def test_a_generator_that_jumps_is_longer():
    class Jumps(Linear):
        def forward(self, z, labels, truncation=1.0):
            return super().forward(z, labels) + 0.01 * torch.sin(1000 * z).reshape(len(z), 1, 16, 16)

    assert of(Jumps(0.01)) > 100 * of(Linear(0.01))


def test_nan_between_latents_is_found():
    with pytest.raises(BadGenerator, match="not finite between latents"):
        of(Linear(float("nan")))
