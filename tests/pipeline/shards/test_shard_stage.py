"""The shard stage over the lives that folders lead: grown, shrunken, moved, damaged, interrupted.

The histories run in this process; what Ray could change (the bytes, the order, what is pickled) runs on Ray.
"""

import functools
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from looking import classes_of, contents, on_disk, origins_of, quarantine, shard_files
from PIL import Image

import pipeline.shards.on_ray as stage
from pipeline.errors import UserError
from pipeline.ingest.folder import FolderSource
from pipeline.ingest.source import open_source
from pipeline.on_ray import run_tasks
from pipeline.shards.damage import DamagedShard
from pipeline.shards.manifest import latest_version, load_manifest
from pipeline.shards.on_ray import shard_images
from pipeline.shards.read import DatasetReader
from pipeline.shards.write import content_key, is_held_out
from pipeline.storage import Storage

CLASSES = {"ant": range(0, 45), "bee": range(45, 80)}


@pytest.fixture
def source(make_tree, tmp_path) -> Path:
    return Path(make_tree(tmp_path / "images", CLASSES))


@pytest.fixture
def refuse_ray(monkeypatch):
    """From when it is called on, an ingest that starts Ray fails."""

    def refuse() -> None:
        def cluster():
            raise AssertionError("Ray was started")

        monkeypatch.setattr(stage, "cluster", cluster)

    return refuse


# On Ray


@pytest.mark.usefixtures("ray_cluster")
def test_the_same_bytes_with_one_worker_and_two_and_wherever_the_folder_lies(
    tmp_path, source, data, make_tree, monkeypatch
):
    two = Storage(str(tmp_path / "two"))
    found_two = shard_images(two, "pets", data(str(source)))
    assert found_two.shards_written == len(load_manifest(two, found_two.dataset).shards) > 3

    monkeypatch.setattr(stage, "run_tasks", functools.partial(run_tasks, at_once=1))
    one = Storage(str(tmp_path / "one"))
    found_one = shard_images(one, "pets", data(str(source)))

    # Made in another order, elsewhere, below one more folder.
    elsewhere = tmp_path / "else where" / "wrapped"
    make_tree(elsewhere, {label: list(reversed(numbers)) for label, numbers in reversed(CLASSES.items())})
    moved = Storage(str(tmp_path / "moved"))
    found_moved = shard_images(moved, "pets", data(str(elsewhere.parent)))

    assert found_two == found_one == found_moved
    # Files are named by the hash of their bytes, indexes by that of their tar.
    assert set(shard_files(two)) == set(shard_files(one)) == set(shard_files(moved))
    for name in shard_files(two):
        assert len({store.read(f"datasets/pets/shards/{name}") for store in (two, one, moved)}) == 1


def test_of_three_hundred_pngs_exactly_the_three_bad_ones_are_quarantined(
    ray_cluster, storage, data, tmp_path, monkeypatch
):
    draws = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(297):
        mode = ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"][number % 7]
        width, height = draws.integers(8, 90, 2).tolist()
        if mode == "I;16":
            image = Image.fromarray(draws.integers(0, 65536, (height, width), dtype=np.uint16))
        else:
            image = Image.fromarray(draws.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA").convert(mode)
        assert image.mode == mode
        image.save(folder / f"{number:03}.png")
    whole = (folder / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("dear diary\n" * 40)
    (folder / "empty.png").touch()

    found = shard_images(storage, "pets", data(str(folder), held_out=0.1, shard_images=100))
    refused = quarantine(storage, found.dataset)
    assert {row["path"]: row["reason"] for row in refused} == {
        "cut.png": "truncated",
        "text.png": "not_an_image",
        "empty.png": "empty",
    }
    assert all(row["detail"] for row in refused)
    assert found.quarantined == {"truncated": 1, "not_an_image": 1, "empty": 1}
    assert sum(found.samples.values()) == len(contents(storage, found.dataset)) == 297

    # What was refused once is not tried again.
    monkeypatch.setattr(stage, "cluster", lambda: pytest.fail("Ray was started"))
    assert shard_images(storage, "pets", data(str(folder), held_out=0.1, shard_images=100)).dataset == found.dataset


@pytest.mark.usefixtures("ray_cluster")
def test_an_unchanged_source_costs_no_ray_and_writes_nothing(storage, data, source, refuse_ray):
    first = shard_images(storage, "pets", data(str(source)))
    files = shard_files(storage)
    manifest = storage.local_path(f"{first.dataset.folder}/manifest.json")
    written = manifest.stat().st_ino, manifest.stat().st_mtime_ns
    refuse_ray()
    second = shard_images(storage, "pets", data(str(source)))
    assert (second.dataset, second.samples, second.classes) == (first.dataset, first.samples, first.classes)
    assert (second.shards_written, second.shards_reused) == (0, first.shards_written)
    assert shard_files(storage) == files
    assert (manifest.stat().st_ino, manifest.stat().st_mtime_ns) == written


@pytest.mark.usefixtures("ray_cluster")
def test_a_grown_source_writes_only_its_new_images(storage, data, source, make_tree):
    first = shard_images(storage, "pets", data(str(source)))
    before, files = contents(storage, first.dataset), shard_files(storage)
    make_tree(source, {"ant": range(100, 110), "bug": range(110, 125)})
    second = shard_images(storage, "pets", data(str(source)))

    after = contents(storage, second.dataset)
    assert {key: label for key, (_, label) in after.items()} == on_disk(source)
    # No image changed its side or its class, and no file of before was touched.
    assert before.items() <= after.items()
    assert files.items() <= shard_files(storage).items()
    assert second.shards_reused == first.shards_written
    old = {shard.sha256 for shard in load_manifest(storage, first.dataset).shards}
    new = [shard for shard in load_manifest(storage, second.dataset).shards if shard.sha256 not in old]
    assert len(new) == second.shards_written and sum(shard.samples for shard in new) == 25
    assert load_manifest(storage, second.dataset).parent == first.dataset.digest
    assert contents(storage, first.dataset) == before  # the old version stays valid


# Histories


@pytest.mark.usefixtures("without_ray")
def test_a_shrunken_source_is_a_new_version_without_a_new_tar(storage, data, source, refuse_ray):
    first = shard_images(storage, "pets", data(str(source)))
    before, files = contents(storage, first.dataset), shard_files(storage)
    gone = {content_key(path.read_bytes()) for path in sorted(source.rglob("*.png"))[10:60:7]}
    for path in list(source.rglob("*.png")):
        if content_key(path.read_bytes()) in gone:
            path.unlink()
    refuse_ray()
    second = shard_images(storage, "pets", data(str(source)))

    assert second.dataset != first.dataset and second.shards_written == 0
    assert shard_files(storage) == files
    assert set(contents(storage, second.dataset)) == set(before) - gone
    assert sum(second.samples.values()) == 80 - len(gone)
    assert load_manifest(storage, second.dataset).class_counts == [
        sum(label == name for label in on_disk(source).values()) for name in ("ant", "bee")
    ]
    assert contents(storage, first.dataset) == before
    # A third ingest finds nothing to do.
    assert shard_images(storage, "pets", data(str(source))).dataset == second.dataset


@pytest.mark.usefixtures("without_ray")
def test_a_shard_whose_images_have_all_gone_is_no_part_of_the_next_version(storage, data, source):
    first = shard_images(storage, "pets", data(str(source)))
    lost = load_manifest(storage, first.dataset).of_split("train")[0]
    index = pq.read_table(storage.local_path(f"datasets/pets/shards/{lost.sha256}.parquet"))
    keys = set(index["key"].to_pylist())
    kept = {}
    for path in list(source.rglob("*.png")):
        if content_key(path.read_bytes()) in keys:
            kept[path] = path.stat().st_mtime_ns, path.read_bytes()
            path.unlink()
    second = shard_images(storage, "pets", data(str(source)))
    assert lost.sha256 not in {shard.sha256 for shard in load_manifest(storage, second.dataset).shards}
    assert classes_of(storage, second.dataset) == on_disk(source)

    # They come back: the tar is still there, and the content has the digest that it had.
    for path, (mtime, image) in kept.items():
        path.write_bytes(image)
        os.utime(path, ns=(mtime, mtime))
    third = shard_images(storage, "pets", data(str(source)))
    assert third.shards_written == 0
    assert third.dataset == first.dataset


@pytest.mark.usefixtures("without_ray")
def test_an_image_that_moves_to_another_class_is_read_under_that_alone(storage, data, source):
    first = shard_images(storage, "pets", data(str(source)))
    files, sides = shard_files(storage), contents(storage, first.dataset)
    moved = content_key((source / "ant/0003.png").read_bytes())
    (source / "ant/0003.png").rename(source / "bee/0003.png")
    second = shard_images(storage, "pets", data(str(source)))
    assert classes_of(storage, second.dataset) == on_disk(source)
    assert contents(storage, second.dataset)[moved] == (sides[moved][0], "bee")
    assert second.shards_written == 1 and files.items() <= shard_files(storage).items()

    (source / "bee/0003.png").rename(source / "ant/0003.png")
    third = shard_images(storage, "pets", data(str(source)))
    assert contents(storage, third.dataset) == sides


@pytest.mark.usefixtures("without_ray")
def test_an_image_that_comes_back_is_read_once_again(storage, data, source):
    first = shard_images(storage, "pets", data(str(source)))
    everything = contents(storage, first.dataset)
    image = (source / "bee/0050.png").read_bytes()
    (source / "bee/0050.png").unlink()
    away = shard_images(storage, "pets", data(str(source)))
    for _ in range(2):  # there and back again, twice: nothing piles up
        (source / "bee/0050.png").write_bytes(image)
        back = shard_images(storage, "pets", data(str(source)))
        assert contents(storage, back.dataset) == everything
        (source / "bee/0050.png").unlink()
        assert shard_images(storage, "pets", data(str(source))).dataset == away.dataset
    assert sum(back.samples.values()) == 80


@pytest.mark.usefixtures("without_ray")
def test_any_walk_of_changes_ends_in_what_the_folder_holds(storage, data, source, make_tree, pixels):
    """Adding, deleting, moving, copying and spoiling at random, an ingest after each few."""
    dice = random.Random(3)
    sides: dict[str, str] = {}
    for turn in range(25):
        for _ in range(dice.randrange(1, 6)):
            path = dice.choice(sorted(source.rglob("*.png")))
            other = dice.choice(["ant", "bee", "cow"])
            (source / other).mkdir(exist_ok=True)
            act = dice.choice(["add", "delete", "move", "spoil", "touch"])
            if act == "add":
                make_tree(source, {other: [1000 + dice.randrange(40)]})
            elif act == "delete":
                path.unlink()
            elif act == "move":
                path.rename(source / other / path.name)
            elif act == "spoil":
                path.write_bytes(path.read_bytes()[:50] + bytes([turn]))
            else:
                os.utime(path, ns=(turn, turn))
        found = shard_images(storage, "pets", data(str(source), shard_images=7))
        good: dict[str, set[str]] = {}
        for path in source.rglob("*.png"):
            if path.stat().st_size > 100:
                good.setdefault(content_key(path.read_bytes()), set()).add(path.parent.name)
        now = contents(storage, found.dataset)
        assert set(now) == set(good)
        assert all(label in good[key] for key, (_, label) in now.items())  # copies: one of their classes
        for key, (side, _) in now.items():
            assert sides.setdefault(key, side) == side
        assert sum(found.samples.values()) == len(now)
        counted = Counter(label for _, label in now.values())
        manifest = load_manifest(storage, found.dataset)
        assert manifest.class_counts == [counted[label] for label in manifest.classes]


@pytest.mark.usefixtures("without_ray")
def test_duplicates_are_kept_once(storage, data, source):
    shutil.copy(source / "ant/0000.png", source / "ant/zzz.png")
    shutil.copy(source / "ant/0001.png", source / "bee/0001.png")
    found = shard_images(storage, "pets", data(str(source)))
    assert (sum(found.samples.values()), found.duplicates) == (80, 2)
    key = content_key((source / "ant/0001.png").read_bytes())
    assert classes_of(storage, found.dataset)[key] == "ant"  # the first by path

    # The one that was kept goes: its copy takes its place, in the copy's class.
    (source / "ant/0001.png").unlink()
    after = shard_images(storage, "pets", data(str(source)))
    assert classes_of(storage, after.dataset)[key] == "bee"
    assert (sum(after.samples.values()), after.duplicates) == (80, 1)


@pytest.mark.usefixtures("without_ray")
def test_every_file_of_the_source_is_accounted_for(storage, data, source):
    (source / "ant/bad.png").write_bytes(b"no")
    shutil.copy(source / "ant/bad.png", source / "bee/bad.png")
    shutil.copy(source / "ant/0000.png", source / "bee/copy.png")
    found = shard_images(storage, "pets", data(str(source)))
    origins = origins_of(storage, found.dataset)
    assert set(origins) == {path.relative_to(source).as_posix() for path in source.rglob("*.png")}
    assert Counter(origin["status"] for origin in origins.values()) == {"kept": 80, "duplicate": 1, "quarantined": 2}
    assert {row["path"] for row in quarantine(storage, found.dataset)} == {"ant/bad.png", "bee/bad.png"}


@pytest.mark.usefixtures("without_ray")
def test_held_out_images_are_never_trained_on(storage, data, source):
    found = shard_images(storage, "pets", data(str(source), held_out=0.25))
    sides = contents(storage, found.dataset)
    for key, (side, _) in sides.items():
        assert side == ("held_out" if is_held_out(key, 0.25) else "train")
    train, held_out = (DatasetReader(storage, found.dataset, split).read_all()[0] for split in ("train", "held_out"))
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in held_out}
    assert len(train) + len(held_out) == 80 and 8 < len(held_out) < 35


def test_the_held_out_share_is_the_one_asked_for():
    keys = [content_key(str(number).encode()) for number in range(20_000)]
    for share in (0.0, 0.05, 0.5):
        held_out = {key for key in keys if is_held_out(key, share)}
        assert abs(len(held_out) / len(keys) - share) < 0.01
    assert {key for key in keys if is_held_out(key, 0.05)} < {key for key in keys if is_held_out(key, 0.5)}


@pytest.mark.usefixtures("without_ray")
def test_a_source_without_a_valid_image_commits_nothing(storage, data, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"text")
    (folder / "b.png").touch()
    with pytest.raises(UserError, match=r"holds no valid image \(1 not_an_image, 1 empty\)|1 empty, 1 not_an_image"):
        shard_images(storage, "pets", data(str(folder)))
    assert latest_version(storage, "pets") is None
    assert [path.name for path in storage.local_path("datasets").rglob("*") if path.is_file()] == ["lock"]


@pytest.mark.usefixtures("without_ray")
def test_a_source_that_lost_all_its_images_leaves_the_last_version(storage, data, source):
    first = shard_images(storage, "pets", data(str(source)))
    before = contents(storage, first.dataset)
    for path in source.rglob("*.png"):
        path.write_bytes(b"spoilt")
    with pytest.raises(UserError, match="holds no valid image"):
        shard_images(storage, "pets", data(str(source)))
    assert latest_version(storage, "pets") == first.dataset
    assert contents(storage, first.dataset) == before


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("empty", [True, False])
def test_a_source_that_is_missing_or_empty_is_the_users_error(storage, data, tmp_path, empty):
    if empty:
        (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="images"):
        shard_images(storage, "pets", data(str(tmp_path / "images")))


@pytest.mark.usefixtures("without_ray")
def test_an_ingest_that_dies_before_its_manifest_leaves_the_old_version_and_its_shards_are_reused(
    storage, data, source, make_tree, monkeypatch
):
    first = shard_images(storage, "pets", data(str(source)))
    before = contents(storage, first.dataset)
    make_tree(source, {"ant": range(200, 240)})

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "commit_version", die)
        with pytest.raises(KeyboardInterrupt):
            shard_images(storage, "pets", data(str(source)))
    files = shard_files(storage)
    assert latest_version(storage, "pets") == first.dataset
    assert contents(storage, first.dataset) == before

    again = shard_images(storage, "pets", data(str(source)))
    assert again.shards_written == 0 and shard_files(storage) == files
    assert again.shards_reused == len(load_manifest(storage, again.dataset).shards)
    assert classes_of(storage, again.dataset) == on_disk(source)


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("last", ["sources.parquet", "manifest.json"])
def test_a_version_that_was_not_published_whole_does_not_count(storage, data, source, make_tree, monkeypatch, last):
    first = shard_images(storage, "pets", data(str(source)))
    make_tree(source, {"ant": range(200, 210)})

    def die_after(publish):
        def publish_and_die(self, *arguments, **how):
            publish(self, *arguments, **how)
            if any(str(argument).endswith(f"/{last}") for argument in arguments):
                raise KeyboardInterrupt

        return publish_and_die

    with monkeypatch.context() as patch:
        for name in ("write", "upload"):
            patch.setattr(Storage, name, die_after(getattr(Storage, name)))
        with pytest.raises(KeyboardInterrupt):
            shard_images(storage, "pets", data(str(source)))
    assert latest_version(storage, "pets") == first.dataset
    again = shard_images(storage, "pets", data(str(source)))
    assert again.shards_written == 0 and classes_of(storage, again.dataset) == on_disk(source)


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    "change", [{"background": "black"}, {"resolution": 32}, {"channels": 1}, {"encoding": "png"}, {"held_out": 0.1}]
)
def test_other_pixels_or_another_split_are_a_version_from_scratch(storage, data, source, change):
    first = shard_images(storage, "pets", data(str(source)))
    before = contents(storage, first.dataset)
    second = shard_images(storage, "pets", data(str(source), **change))
    manifest = load_manifest(storage, second.dataset)
    assert second.dataset != first.dataset
    assert manifest.parent is None and sum(shard.samples for shard in manifest.shards) == 80
    assert classes_of(storage, second.dataset) == on_disk(source)
    assert contents(storage, first.dataset) == before

    # Back to the first recipe: nothing is written, and it is the first version again.
    third = shard_images(storage, "pets", data(str(source)))
    assert (third.dataset, third.shards_written) == (first.dataset, 0)


@pytest.mark.usefixtures("without_ray")
def test_other_shard_sizes_leave_old_shards_as_they_are(storage, data, source, refuse_ray):
    first = shard_images(storage, "pets", data(str(source)))
    refuse_ray()
    assert shard_images(storage, "pets", data(str(source), shard_images=5)).dataset == first.dataset


@pytest.mark.usefixtures("without_ray")
def test_touched_and_renamed_files_are_the_same_content(storage, data, source):
    first = shard_images(storage, "pets", data(str(source)))
    files = shard_files(storage)
    os.utime(source / "ant/0000.png")
    (source / "ant/0001.png").rename(source / "ant/renamed.png")
    second = shard_images(storage, "pets", data(str(source)))
    assert (second.dataset, second.shards_written) == (first.dataset, 0)
    assert shard_files(storage) == files
    paths = set(origins_of(storage, second.dataset))
    assert "ant/renamed.png" in paths and "ant/0001.png" not in paths


@pytest.mark.usefixtures("without_ray")
def test_classes_keep_their_numbers_until_one_is_lost(storage, data, source, make_tree):
    shard_images(storage, "pets", data(str(source)))
    make_tree(source, {"aaa": range(300, 310)})
    found = shard_images(storage, "pets", data(str(source)))
    assert found.classes == load_manifest(storage, found.dataset).classes == ["ant", "bee", "aaa"]
    shutil.rmtree(source / "ant")  # a class without images would be trained on nothing
    found = shard_images(storage, "pets", data(str(source)))
    manifest = load_manifest(storage, found.dataset)
    assert found.classes == manifest.classes == ["aaa", "bee"]
    assert manifest.class_counts == [10, 35]
    assert classes_of(storage, found.dataset) == on_disk(source)


@pytest.mark.usefixtures("without_ray")
def test_a_source_that_is_no_longer_in_classes_has_none(storage, data, source, tmp_path):
    # A conditional generator would otherwise be trained on labels of -1.
    shard_images(storage, "pets", data(str(source)))
    for path in list(source.rglob("*.png")):
        path.rename(source / path.name)
    for label in CLASSES:
        (source / label).rmdir()
    found = shard_images(storage, "pets", data(str(source)))
    assert found.classes == load_manifest(storage, found.dataset).class_counts == []
    assert set(classes_of(storage, found.dataset).values()) == {None}
    assert sum(found.samples.values()) == 80


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_shard_that_was_deleted_is_written_again(storage, data, source, suffix):
    # DamagedShard tells the user to do just this.
    first = shard_images(storage, "pets", data(str(source)))
    before = contents(storage, first.dataset)
    shard = load_manifest(storage, first.dataset).of_split("train")[0].sha256
    storage.delete(f"datasets/pets/shards/{shard}.{suffix}")
    with pytest.raises(DamagedShard, match="shard the images again"):
        contents(storage, first.dataset)
    again = shard_images(storage, "pets", data(str(source)))
    assert (again.dataset, again.shards_written) == (first.dataset, 1)
    assert contents(storage, first.dataset) == before


@pytest.mark.usefixtures("without_ray")
def test_a_deleted_shard_of_a_source_that_shrank_since_is_written_without_what_left(storage, data, source):
    first = shard_images(storage, "pets", data(str(source)))
    for number in range(0, 40, 4):
        (source / f"ant/{number:04}.png").unlink()
    second = shard_images(storage, "pets", data(str(source)))
    for shard in load_manifest(storage, second.dataset).shards:
        storage.delete(f"datasets/pets/shards/{shard.sha256}.tar")
    third = shard_images(storage, "pets", data(str(source)))
    assert third.dataset not in (first.dataset, second.dataset)
    assert classes_of(storage, third.dataset) == on_disk(source)
    assert not any(shard.removed for shard in load_manifest(storage, third.dataset).shards)


@pytest.mark.usefixtures("without_ray")
def test_an_index_that_another_pyarrow_wrote_stays_as_manifests_name_it(storage, data, source, tmp_path):
    first = shard_images(storage, "pets", data(str(source)))
    # The same rows in other bytes, before any manifest named the shards: a crash, then an upgrade.
    storage.delete("datasets/pets/latest.json")
    storage.delete_folder("datasets/pets/versions")
    for path in storage.local_path("datasets/pets/shards").glob("*.parquet"):
        pq.write_table(pq.read_table(path), path, compression="none")
    files = shard_files(storage)
    second = shard_images(storage, "pets", data(str(source)))
    assert second.shards_written == 0 and shard_files(storage) == files
    assert second.samples == first.samples
    assert classes_of(storage, second.dataset) == on_disk(source)


@pytest.mark.usefixtures("without_ray")
def test_a_spoilt_index_is_not_reused(storage, data, source):
    first = shard_images(storage, "pets", data(str(source)))
    storage.delete("datasets/pets/latest.json")
    for path in storage.local_path("datasets/pets/shards").glob("*.parquet"):
        path.write_bytes(b"PAR1")
    second = shard_images(storage, "pets", data(str(source)))
    assert (second.dataset, second.shards_written) == (first.dataset, first.shards_written)
    assert classes_of(storage, second.dataset) == on_disk(source)


@pytest.mark.usefixtures("without_ray")
def test_a_file_that_vanishes_between_listing_and_reading_comes_when_it_is_back(storage, data, source, monkeypatch):
    listed = list(open_source(str(source)).items())
    image, mtime = (source / "ant/0000.png").read_bytes(), (source / "ant/0000.png").stat().st_mtime_ns
    (source / "ant/0000.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "items", lambda _: listed)
        first = shard_images(storage, "pets", data(str(source)))
    assert first.quarantined == {"unreadable": 1}
    (source / "ant/0000.png").write_bytes(image)
    os.utime(source / "ant/0000.png", ns=(mtime, mtime))
    second = shard_images(storage, "pets", data(str(source)))
    assert second.quarantined == {}
    assert classes_of(storage, second.dataset) == on_disk(source)
