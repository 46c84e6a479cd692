"""Old versions of a dataset go with the shards that nothing else needs, and no others; wherever it is interrupted."""

import itertools
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.errors import Unavailable, UserError
from pipeline.shards.alone import alone
from pipeline.shards.listed import dataset_names, list_datasets
from pipeline.shards.manifest import DatasetRef, accepted_path, all_versions, latest_path, load_manifest
from pipeline.shards.on_ray import shard_images
from pipeline.shards.pruning import Pruning, prune_dataset
from pipeline.shards.verify import verify_dataset
from pipeline.storage import Storage

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture
def ingest(storage, data, make_tree, tmp_path) -> Callable[[range], DatasetRef]:
    """A version of these images alone, whatever there was before."""

    def ingest(numbers: range) -> DatasetRef:
        shutil.rmtree(tmp_path / "images", ignore_errors=True)
        source = make_tree(tmp_path / "images", {"ant": numbers})
        return shard_images(storage, "pets", data(source, shard_images=5), rebuild=True).dataset

    return ingest


@pytest.fixture
def three(storage, ingest) -> list[DatasetRef]:
    """Versions that share some images and no shard, the last a month after the others."""
    versions = [ingest(range(0, 12)), ingest(range(6, 18)), ingest(range(12, 24))]
    for order, version in enumerate(versions):
        os.utime(storage.local_path(f"{version.folder}/manifest.json"), (order, order))
    for path in storage.local_path("datasets/pets/shards").iterdir():
        os.utime(path, (0, 0))
    return versions


def prune(storage: Storage, named: Mapping[str, str] | None = None, days: float = 7, really: bool = True) -> Pruning:
    return prune_dataset(storage, "pets", lambda: named or {}, days, really=really)


def files(storage: Storage) -> set[Path]:
    return {path for path in storage.local_path("datasets").rglob("*") if path.is_file() and path.name != "lock"}


def whole(storage: Storage) -> set[str]:
    """Digests of the versions that there are, each of which verifies."""
    there = all_versions(storage, "pets")
    assert all(verify_dataset(storage, version).ok for version in there)
    return {version.digest for version in there}


def test_what_nobody_needs_goes_with_its_shards_and_is_told_before(storage, three):
    first, second, third = three
    before = files(storage)
    told = prune(storage, {second.digest: "of run r"}, really=False)
    assert files(storage) == before and told.versions == [first.digest]
    assert told.kept == {second.digest: "of run r", third.digest: "the latest"}
    assert prune(storage, {second.digest: "of run r"}) == told
    gone = before - files(storage)
    assert whole(storage) == {second.digest, third.digest}
    assert {str(path.relative_to(storage.local_path())) for path in gone if path.parent.name == "shards"} == set(
        told.files
    )
    assert len(told.files) == 2 * len([path for path in gone if path.suffix == ".tar"]) > 0
    assert prune(storage, {second.digest: "of run r"}).bytes == 0


def test_a_shard_that_another_version_has_too_stays(storage, data, make_tree, tmp_path):
    source = make_tree(tmp_path / "images", {"ant": range(12)})
    first = shard_images(storage, "pets", data(source, shard_images=5)).dataset
    make_tree(tmp_path / "images", {"ant": range(12, 18)})
    second = shard_images(storage, "pets", data(source, shard_images=5)).dataset
    for path in files(storage):
        os.utime(path, (0, 0))
    assert prune(storage).files == [] and whole(storage) == {second.digest} != {first.digest}


def test_the_latest_the_accepted_and_what_was_the_latest_lately_stay(storage, three):
    first, second, third = three
    storage.write_json(accepted_path("pets"), {"digest": first.digest})
    lately = storage.local_path(f"{third.folder}/manifest.json")
    os.utime(lately)  # so the second, though old, was the latest until now
    found = prune(storage)
    assert found.versions == [] and found.kept == {
        first.digest: "the last that was let through to training",
        second.digest: "was the latest not long ago",
        third.digest: "the latest",
    }
    assert prune(storage, days=0, really=False).versions == [second.digest]
    storage.delete(latest_path("pets"))
    assert prune(storage, days=0).versions == []


def test_what_an_interrupted_ingest_left_goes_once_it_is_old(storage, three):
    for path in (
        "datasets/pets/shards/" + "a" * 64 + ".tar",
        "datasets/pets/versions/" + "b" * 64 + "/sources.parquet",
    ):
        storage.write(path, b"half")
    named = {version.digest: "of run r" for version in three}
    assert prune(storage, named).bytes == 0
    told = prune(storage, named, days=0)
    assert (len(told.files), len(told.halves), told.bytes, told.versions) == (1, 1, 8, [])
    assert whole(storage) == set(named)


@pytest.mark.parametrize("fails", range(8))
def test_interrupted_anywhere_all_that_is_left_is_whole_and_the_next_finishes(storage, three, monkeypatch, fails):
    count, delete, delete_folder = itertools.count(), Storage.delete, Storage.delete_folder

    def perhaps(function):
        def act(self, path: str) -> None:
            if next(count) == fails:
                if function is delete_folder:  # half done
                    for table in ("sources", "removed"):
                        delete(self, f"{path}/{table}.parquet")
                raise Unavailable("the store is away")
            function(self, path)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", perhaps(delete))
        patch.setattr(Storage, "delete_folder", perhaps(delete_folder))
        with pytest.raises(Unavailable):
            prune(storage)
    assert three[2].digest in whole(storage)
    prune(storage, days=0)
    assert whole(storage) == {three[2].digest}
    shards = {path.stem for path in files(storage) if path.parent.name == "shards"}
    assert len(list(storage.list("datasets/pets/versions"))) == 1
    assert shards == {shard.sha256 for shard in load_manifest(storage, three[2]).shards}


def test_nothing_goes_while_the_dataset_is_changed_or_something_can_not_be_read(storage, three):
    before = files(storage)
    with alone(storage, "pets"):
        assert "being sharded" in (prune(storage).busy or "")

    def away() -> Mapping[str, str]:
        raise Unavailable("MLflow does not answer")

    with pytest.raises(Unavailable):
        prune_dataset(storage, "pets", away, 7, really=True)
    assert files(storage) == before
    storage.write(f"{three[2].folder}/manifest.json", b"{}")
    with pytest.raises(UserError, match="restore it from a copy"):
        prune(storage)
    assert files(storage) == before


def test_datasets_are_listed(storage, three):
    (listed,) = list_datasets(storage)
    assert (listed.name, listed.latest, listed.images, listed.versions) == ("pets", three[2].digest, 12, 3)
    assert listed.bytes == sum(path.stat().st_size for path in files(storage))
    with pytest.raises(UserError, match="there are: pets"):
        dataset_names(storage, ["cats"])
