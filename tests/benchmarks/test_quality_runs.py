"""What the benchmarks of quality count, and how they go on; their long runs are no tests."""

import math

import numpy as np
import pytest
import torch
from digit_reader import DigitReader
from emoji import rows
from pieces import train_for
from stacked_mnist import coverage, coverage_of_real, read_modes

from ganmodels.networks import build_generator
from ganmodels.spec import NetworkSpec
from pipeline.registry.generator import Generator
from pipeline.storage import Storage
from pipeline.training.checkpoint import verify_checkpoint

TINY = """
name: tiny
data: {source: mnist5k}
model: {width: 4}
training: {images: 1000000, batch: 64, checkpoint_every: 128, evaluate_every: 1000000, log_every: 128}
cluster: {workers: 0, cpus_per_worker: 1}
"""


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        (np.arange(1000).repeat(3), (1000, 0.0)),
        (np.zeros(10, dtype=int), (1, math.log(1000))),
        (np.array([5, 5, 5, 999]), (2, 0.75 * math.log(750) + 0.25 * math.log(250))),
    ],
)
def test_coverage_is_what_it_is_by_hand(modes, expected):
    found = coverage(modes)
    assert found.modes == expected[0] and found.kl == pytest.approx(expected[1])


def test_real_images_have_all_modes_and_nearly_no_divergence():
    found = coverage_of_real()
    assert found.modes == 1000 and 0.01 < found.kl < 0.04  # 999 / (2 x 25,600) from chance alone


def test_red_green_and_blue_are_hundreds_tens_and_units(monkeypatch):
    monkeypatch.setattr("stacked_mnist.SAMPLES", 3)
    generator = Generator(build_generator(NetworkSpec("dcgan", 28, 3, width=2, max_width=2)), NetworkSpec("", 28, 3))
    levels = np.array([[1, 2, 3], [0, 0, 9], [9, 0, 0]], dtype=np.uint8)
    monkeypatch.setattr(
        generator, "sample", lambda n, seed, first: np.tile(levels[:, None, None, :], (1, 28, 28, 1))[first : first + n]
    )

    class ByLevel(torch.nn.Module):  # it reads a digit's brightness
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            level = ((x[:, 0, 0, 0] + 1) * 127.5).round().long()
            return torch.nn.functional.one_hot(level, 10).float()

    assert read_modes(generator, DigitReader(ByLevel(), 1.0)).tolist() == [123, 9, 900]


def test_emoji_and_their_skin_colours_are_listed_and_swatches_are_not():
    entries = [
        {"image": "a.png", "category": "People & Body", "skin_variations": {"1F3FB": {"image": "a-1f3fb.png"}}},
        {"image": "b.png", "category": "Flags"},
        {"image": "c.png", "category": "Component"},
    ]
    people = [{"path": path, "label": "People & Body"} for path in ("a.png", "a-1f3fb.png")]
    assert rows(entries) == [*people, {"path": "b.png", "label": "Flags"}]


@pytest.mark.slow
def test_training_stops_when_its_minutes_are_over_and_all_checkpoints_are_kept(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    storage = Storage(str(tmp_path / "root"))
    pieces = train_for(0.05, "tiny.yaml", [], storage)
    assert 0.05 * 60 <= pieces.seconds < 60 and pieces.images < 1_000_000
    assert len(pieces.checkpoints) > 1 and pieces.spread(2) == [pieces.checkpoints[0], pieces.checkpoints[-1]]
    for checkpoint in pieces.checkpoints:
        assert verify_checkpoint(storage, pieces.plan.run, checkpoint.path) == checkpoint
    assert "stopped at image" in capfd.readouterr().err
    # Done is done; with more minutes it would go on from there.
    assert train_for(0.05, "tiny.yaml", [], storage) == pieces
    assert not capfd.readouterr().err
