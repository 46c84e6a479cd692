"""What a run needs when all is trained is looked at before it begins."""

import hashlib

import pytest
import torch

from flows.preflight import check_features
from pipeline.errors import UserError
from pipeline.recipe import load_config
from pipeline.storage import Storage


class Brightness(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


@pytest.fixture
def recipe(tmp_path):
    """The sets that name a file of features."""
    path = tmp_path / "brightness.pt"
    torch.jit.script(Brightness()).save(str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    named = {"features": path, "features_sha256": sha256, "features_pixels": 32}
    return load_config("mnist", [f"evaluation.{key}={value}" for key, value in named.items()])


def test_sound_features_are_kept_for_the_evaluation_and_a_dry_run_writes_nothing(recipe, tmp_path):
    storage = Storage(str(tmp_path / "root"))
    check_features(recipe, storage, keep=False)
    assert not (tmp_path / "root").exists()
    check_features(recipe, storage, keep=True)
    (tmp_path / "brightness.pt").unlink()
    check_features(recipe, storage, keep=True)


def test_features_that_are_not_there_are_told_of(recipe, tmp_path):
    (tmp_path / "brightness.pt").unlink()
    with pytest.raises(UserError, match=r"evaluation\.features .*brightness\.pt is not there"):
        check_features(recipe, Storage(str(tmp_path / "root")), keep=True)


def test_the_packaged_features_need_no_file(tmp_path):
    check_features(load_config("mnist", []), Storage(str(tmp_path / "root")), keep=True)
    assert not (tmp_path / "root").exists()
