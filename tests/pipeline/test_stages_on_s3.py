"""The stages with their storage on a real S3 server that fails at every few requests: the same as on local disk."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import storage as storage_module
from pipeline.config import Config
from pipeline.errors import Unavailable
from pipeline.patience import Patience
from pipeline.shards import on_ray
from pipeline.shards.alone import alone
from pipeline.shards.read import DatasetReader
from pipeline.shards.verify import resolve_dataset, verify_dataset
from pipeline.storage import Storage
from pipeline.training.checkpoint import load_checkpoint, newest_checkpoint, read_files, save_checkpoint
from pipeline.training.plan import plan_run
from pipeline.training.state import fresh_state


def _fail_now_and_then(proxy):
    """At a tenth of all requests, in each way but a stall."""
    for fault in ("busy", "reset", "cut", "short", "lost"):
        proxy.fail(fault, -1, share=0.02)


def _config(folder) -> Config:
    return Config.model_validate({
        "name": "t",
        "data": {"source": str(folder), "resolution": 16, "channels": 1, "shard_images": 30},
        "model": {"width": 8, "z_dim": 8},
        "training": {"batch": 16},
    })  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        (folder / label).mkdir()
        for i in range(30):
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / label / f"{i}.png")
    (folder / "dark" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def shard(images, monkeypatch):
    monkeypatch.setattr(on_ray, "cluster", nullcontext)
    monkeypatch.setattr(on_ray, "run_tasks", lambda function, shared, each: (function(shared, one) for one in each))
    return lambda storage: on_ray.shard_images(storage, "t", _config(images).data)


@pytest.fixture
def local(tmp_path) -> Storage:
    return Storage(str(tmp_path / "local"))


@pytest.fixture
def faulty(faulty_root, monkeypatch, tmp_path) -> Storage:
    """Fails where the proxy is told to; its verified copies lie in a folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.setattr(storage_module, "_PATIENCE", Patience(first_pause=0.01))
    return Storage(faulty_root)


def test_a_dataset_is_the_same_as_on_disk_whatever_fails(local, faulty, proxy, shard):
    _fail_now_and_then(proxy)
    expected, found = shard(local), shard(faulty)
    assert found == expected  # the digest among it, which is over every shard's sha256
    again = shard(faulty)
    assert (again.dataset, again.shards_written) == (found.dataset, 0)
    assert resolve_dataset(faulty, "t") == found.dataset

    for split in ("train", "held_out"):
        on_disk = DatasetReader(local, expected.dataset, split).read_all()
        on_s3 = DatasetReader(faulty, found.dataset, split).read_all()
        assert all(np.array_equal(one, other) for one, other in zip(on_disk, on_s3, strict=True))

    verification = verify_dataset(faulty, found.dataset)
    assert verification.ok and verification.samples == sum(expected.samples.values())
    assert len(proxy.hit) >= 10


def test_an_ingest_that_another_took_the_place_of_commits_nothing(faulty, s3_root, proxy, shard, monkeypatch):
    lock = partial(alone, seconds=1.0)
    monkeypatch.setattr(on_ray, "alone", lock)
    assemble = on_ray.assemble

    def cut_off(*arguments):
        proxy.fail("busy", -1)
        with lock(Storage(s3_root), "t"):
            pass  # whatever it did
        proxy.forget()
        return assemble(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(on_ray, "assemble", cut_off)
        with pytest.raises(Unavailable, match="the lease datasets/t/lock in s3://"):
            shard(faulty)
    assert not list(Storage(s3_root).list("datasets/t/versions"))
    assert shard(faulty).dataset == resolve_dataset(faulty, "t")


def test_a_stall_while_reading_costs_seconds_and_nothing_else(faulty, proxy, shard):
    ingest = shard(faulty)
    proxy.fail("stall", 1, method="GET", path=".tar")
    images, _ = DatasetReader(faulty, ingest.dataset, "train").read_all()
    assert len(images) == ingest.samples["train"] and len(proxy.hit) == 1


def test_a_shard_that_stays_short_is_never_read_as_whole(faulty, proxy, shard, monkeypatch):
    dataset = shard(faulty).dataset
    monkeypatch.setattr(storage_module, "_PATIENCE", Patience(attempts=2, first_pause=0.01))
    proxy.fail("short", -1, method="GET", path=".tar")
    with pytest.raises(OSError, match="only a part of"):
        DatasetReader(faulty, dataset, "train").read_all()
    verification = verify_dataset(faulty, dataset)
    assert not verification.ok
    assert all("only a part of" in problem.what for problem in verification.problems if problem.shard)
    proxy.forget()
    assert verify_dataset(faulty, dataset).ok
    assert len(DatasetReader(faulty, dataset, "train").read_all()[0])


def test_checkpoints_come_back_bit_for_bit_whatever_fails(local, faulty, proxy, shard, images):
    config = _config(images)
    plan = plan_run(local, config, shard(local).dataset)
    state = fresh_state(plan.spec, config.training, torch.device("cpu"))
    _fail_now_and_then(proxy)
    for state.step in (5, 10, 15, 20):
        saved = save_checkpoint(faulty, plan.run, state.snapshot(), config.training.batch)
    assert newest_checkpoint(faulty, plan.run) == saved
    assert len([entry for entry in faulty.list(f"runs/{plan.run}/checkpoints") if entry.is_folder]) == 3

    other = fresh_state(plan.spec, config.training.model_copy(update={"seed": 9}), torch.device("cpu"))
    load_checkpoint(faulty, saved, other)
    assert other.step == 20
    assert other.snapshot().to_files() == state.snapshot().to_files()
    files = read_files(faulty, saved)
    assert {name: files[name] for name in state.snapshot().to_files()} == state.snapshot().to_files()
    assert len(proxy.hit) >= 10
