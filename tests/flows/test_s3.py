"""The whole way with the storage root on a real S3 server."""

import numpy as np
import pytest
from PIL import Image

from pipeline.storage import Storage
from pipeline.training.telemetry import read_points

RECIPE = """
name: far
data: {source: images, resolution: 16}
model: {width: 8}
training: {images: 320, batch: 32, checkpoint_every: 160, evaluate_every: 160, log_every: 64,
  evaluate_images: 8}
evaluation: {images: 16, minimum_images: 1}
cluster: {workers: 1, cpus_per_worker: 1}
"""


@pytest.fixture
def far(faulty_root, proxy, ganline, tmp_path):
    """`ganline` with its storage there; a few requests are refused, as on a busy day."""
    ganline.env |= {"GANLINE_STORAGE": faulty_root, "XDG_CACHE_HOME": str(tmp_path / "cache-home")}
    proxy.fail("busy", -1, share=0.02)
    return ganline


def test_images_become_a_release_on_s3_and_a_second_run_finds_all_done(far, s3_root):
    rng = np.random.default_rng(0)
    (far.folder / "images").mkdir()
    for i in range(300):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(far.folder / "images" / f"{i}.png")
    (far.folder / "far.yaml").write_text(RECIPE)

    done = far("run", "far.yaml", "--json").json
    assert done["dataset"]["samples"] == 300
    assert (done["run"]["images"], done["run"]["resumed_from"]) == (320, 0)
    assert done["release"]["promoted"] and done["metrics"]

    storage, run = Storage(s3_root), done["run"]["id"]
    assert sorted(entry.path.rpartition("/")[2] for entry in storage.list("")) == [
        "cache", "datasets", "evaluations", "results", "runs",
    ]  # fmt: skip
    assert len(list(storage.list(f"runs/{run}/checkpoints"))) == 2
    assert list(storage.list("cache/ray")) == []  # what Ray notes of an attempt goes with it
    points = {point["images"]: point["metrics"] for point in read_points(storage, run)}
    assert list(points) == [64, 128, 160, 192, 256, 320]
    measured = {images: figures["frechet"] for images, figures in points.items() if "frechet" in figures}
    assert done["run"]["best_images"] == min(measured, key=measured.__getitem__) and len(measured) == 2

    again = far("run", "far.yaml", "--json").json
    assert (again["dataset"]["shards_written"], again["run"]["reused"]) == (0, True)
    assert far.left_running() == []
