import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import Evaluation
from pipeline.errors import UserError
from pipeline.evaluation.chosen import chosen_features
from pipeline.evaluation.features import as_levels, resized
from pipeline.evaluation.remembered import evaluate_once
from pipeline.evaluation.torchscript import TorchScriptFeatures
from pipeline.storage import Storage


class Means(torch.nn.Module):
    """Each channel's mean over the quarters of an image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


class LikeInception(torch.nn.Module):
    """Has the argument that FID's Inception in TorchScript has, and gives classes without it."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        found = img.mean((2, 3), keepdim=True)
        return found if return_features else found.flatten(1).softmax(dim=1)


class PerChannel(torch.nn.Module):
    """Three rows of features for each image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).reshape(-1, 1).expand(-1, 16)


class OfAll(torch.nn.Module):
    """One row for all images, with as many features as there are images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))[None]


class Pixels(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


Module = Callable[[torch.nn.Module], tuple[Path, str]]


@pytest.fixture
def module(tmp_path) -> Module:
    """A module's file and its sha256."""

    def save(network: torch.nn.Module) -> tuple[Path, str]:
        path = tmp_path / f"{type(network).__name__}.pt"
        torch.jit.script(network).save(str(path))
        return path, hashlib.sha256(path.read_bytes()).hexdigest()

    return save


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)


def of(file: tuple[Path, str], cache: Path, pixels: int = 32, range: str = "0-255") -> TorchScriptFeatures:
    return TorchScriptFeatures(str(file[0]), file[1], pixels, range, cache)


@pytest.mark.parametrize(("range", "scale", "shift"), [("0-255", 1, 0), ("0-1", 1 / 255, 0), ("-1-1", 2 / 255, -1)])
def test_it_gives_what_the_module_gives_of_resized_images_that_are_not_rounded(
    module, images, tmp_path, range, scale, shift
):
    file = module(Means())
    found = of(file, tmp_path / "cache", range=range)(images)
    expected = Means()(resized(as_levels(images), 32) * scale + shift)
    assert found.shape == (40, 12)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
    assert np.abs(found - Means()(resized(as_levels(images), 32).round() * scale + shift).numpy()).max() > 1e-4 * scale
    grey = images[:, :, :, :1]
    np.testing.assert_array_equal(
        of(file, tmp_path / "cache")(grey), of(file, tmp_path / "cache")(grey.repeat(3, axis=3))
    )


def test_inceptions_pooled_features_are_taken_and_not_its_classes(module, images, tmp_path):
    found = of(module(LikeInception()), tmp_path / "cache")(images)
    assert found.shape == (40, 3)
    np.testing.assert_allclose(found, images.mean((1, 2)), atol=2)


def test_a_file_of_another_sha256_is_refused_and_not_kept(module, images, tmp_path):
    path, sha = module(Means())
    other, _ = module(LikeInception())
    with pytest.raises(UserError, match=f"not evaluation.features_sha256 {sha}"):
        of((other, sha), tmp_path / "cache")(images)
    assert not (tmp_path / "cache").exists()
    of((path, sha), tmp_path / "cache")(images)


def test_it_is_fetched_once_and_checked_each_time(module, images, tmp_path):
    path, sha = module(Means())
    cache = tmp_path / "cache"
    first = of((path, sha), cache)(images)
    kept = path.rename(tmp_path / "away.pt")
    np.testing.assert_array_equal(of((path, sha), cache)(images), first)
    (cache / f"{sha}.pt").write_bytes(b"tampered with")
    with pytest.raises(UserError, match="is not there"):
        of((path, sha), cache)(images)
    kept.rename(path)
    np.testing.assert_array_equal(of((path, sha), cache)(images), first)
    assert hashlib.sha256((cache / f"{sha}.pt").read_bytes()).hexdigest() == sha
    assert [one.name for one in cache.iterdir()] == [f"{sha}.pt"]


def test_it_comes_from_s3_too(module, images, tmp_path, s3_root):
    path, sha = module(Means())
    Storage(s3_root).write("features/means.pt", path.read_bytes())
    base, mark, query = s3_root.partition("?")
    there = TorchScriptFeatures(f"{base}/features/means.pt{mark}{query}", sha, 32, "0-255", tmp_path / "cache")
    np.testing.assert_array_equal(there(images), of((path, sha), tmp_path / "other")(images))


def test_what_is_no_module_or_gives_no_features_is_told_in_one_line(module, images, tmp_path):
    path = tmp_path / "notes.pt"
    path.write_bytes(b"not a module")
    with pytest.raises(UserError, match="is no TorchScript module") as error:
        of((path, hashlib.sha256(b"not a module").hexdigest()), tmp_path / "cache")(images)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"gives \(16, 3, 32, 32\), not \(16, features\)"):
        of(module(Pixels()), tmp_path / "cache")(images)


@pytest.mark.parametrize(("network", "given"), [(PerChannel(), r"\(48, 16\)"), (OfAll(), r"\(1, 16\)")])
def test_as_many_rows_as_images_are_asked_for(module, images, tmp_path, network, given):
    """Any of these has as many numbers as some features of 16 images have."""
    with pytest.raises(UserError, match=rf"gives {given}, not \(16, features\)"):
        of(module(network), tmp_path / "cache")(images)


def test_figures_of_other_features_have_other_names(module, fresh, plays, training_images):
    storage, dataset = fresh
    names = set()
    for network, pixels in ((Means(), 32), (Means(), 28), (LikeInception(), 32)):
        path, sha = module(network)
        settings = Evaluation(features=str(path), features_sha256=sha, features_pixels=pixels)
        chosen = chosen_features(storage, settings, dataset)
        found, _ = evaluate_once(storage, dataset, plays(training_images), images=60, seeds=(0,), extractor=chosen)
        assert found.features == f"torchscript-{sha[:12]}@{pixels}px-bicubic-aa-float-0-255"
        assert found.features in found.name_of("frechet")
        names.add(found.name_of("frechet"))
    assert len(names) == 3
    assert chosen_features(storage, Evaluation(), dataset) is None
