"""Ingests that follow another: interrupted, copied from old shards, compacted, rebuilt, at once, killed by an image."""

import json
import os
import shutil
import signal
import zlib
from pathlib import Path

import numpy as np
import pytest
from looking import classes_of, contents, on_disk, origins_of, quarantine, shard_files

import pipeline.shards.on_ray as stage
import pipeline.shards.prepare as prepare
from flows.forgetting import forget_images
from pipeline.errors import RunFailed, UserError
from pipeline.ingest.image import Decoded, ImageRules
from pipeline.shards.gather import Row, gather
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.shards.on_ray import shard_images
from pipeline.shards.verify import verify_dataset
from pipeline.shards.write import content_key
from pipeline.storage import Storage

CLASSES = {"ant": range(0, 45), "bee": range(45, 80)}


@pytest.fixture
def source(make_tree, tmp_path) -> Path:
    return Path(make_tree(tmp_path / "images", CLASSES))


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The keys of what is decoded, in this process."""
    keys, decode = list[str](), prepare.decode

    def listening(content: bytes, rules: ImageRules, path: str) -> Decoded:
        keys.append(content_key(content))
        return decode(content, rules, path)

    monkeypatch.setattr(prepare, "decode", listening)
    return keys


def parts(storage: Storage) -> list[str]:
    return [entry.path for entry in storage.list("datasets/pets/parts")]


def scratch(storage: Storage) -> list[Path]:
    return [path for path in storage.local_path("cache/ingests").iterdir() if path.is_dir()]


def tars(storage: Storage, dataset: DatasetRef) -> set[str]:
    return {shard.sha256 for shard in load_manifest(storage, dataset).shards}


# Parts


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("during", ["prepare_chunk", "write_shard", "commit_version"])
def test_an_interrupted_ingest_is_continued_and_leaves_nothing_behind(
    storage, data, source, decoded, monkeypatch, during
):
    monkeypatch.setattr("pipeline.shards.chunks._LEAST", 10)
    real, calls = getattr(stage, during), []

    def die_at_the_fourth_call(*arguments):
        calls.append(1)
        if len(calls) == 4 or during == "commit_version":
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stage, during, die_at_the_fourth_call)
        with pytest.raises(KeyboardInterrupt):
            shard_images(storage, "pets", data(str(source)))
    finished = len(decoded)
    assert finished == (30 if during == "prepare_chunk" else 80) and len(parts(storage)) == finished // 10
    assert not scratch(storage)
    found = shard_images(storage, "pets", data(str(source)))
    assert len(decoded) == len(set(decoded)) == 80  # none was read twice
    assert not parts(storage) and not scratch(storage)
    straight = Storage(f"{storage.uri}-straight")
    assert shard_images(straight, "pets", data(str(source))).dataset == found.dataset
    assert set(shard_files(storage)) == set(shard_files(straight))


@pytest.mark.usefixtures("without_ray")
def test_a_part_that_is_damaged_is_not_used(storage, data, source, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_shard", lambda *arguments: pytest.fail("stop here"))
        with pytest.raises(pytest.fail.Exception):
            shard_images(storage, "pets", data(str(source)))
    (part,) = parts(storage)
    whole = storage.read(part)
    for damaged in (
        b"",
        whole[:5],
        whole[:100],
        whole[:-1],
        b"\xff" * 8 + whole[8:],
        whole[:4] + b"\xff" * 4 + whole[8:],
        whole[:8] + bytes(200) + whole[208:],
    ):
        storage.write(part, damaged)
        assert prepare.read_part(storage, part) is None
    storage.write(part, whole[:-1] + bytes([whole[-1] ^ 1]))  # its table is whole, an image is not
    with pytest.raises(RunFailed, match=f"{part} in .* is damaged; delete it"):
        shard_images(storage, "pets", data(str(source)))
    storage.delete(part)
    found = shard_images(storage, "pets", data(str(source)))
    assert classes_of(storage, found.dataset) == on_disk(source) and verify_dataset(storage, found.dataset).ok


@pytest.mark.usefixtures("without_ray")
def test_shards_do_not_depend_on_how_the_source_is_cut_into_chunks(tmp_path, data, source, monkeypatch):
    datasets = []
    for size in (7, 500):
        monkeypatch.setattr("pipeline.shards.chunks._LEAST", size)
        store = Storage(str(tmp_path / str(size)))
        datasets.append(shard_images(store, "pets", data(str(source))).dataset)
    assert datasets[0] == datasets[1]
    assert set(shard_files(Storage(str(tmp_path / "7")))) == set(shard_files(Storage(str(tmp_path / "500"))))


# What is known is not done again


@pytest.mark.usefixtures("without_ray")
def test_an_image_that_moved_comes_from_its_old_shard_and_one_that_was_touched_is_not_decoded(
    storage, data, source, decoded, make_tree
):
    first = shard_images(storage, "pets", data(str(source)))
    decoded.clear()
    os.utime(source / "ant/0001.png")
    (source / "ant/0003.png").rename(source / "bee/0003.png")
    moved = content_key((source / "bee/0003.png").read_bytes())
    second = shard_images(storage, "pets", data(str(source)))
    assert second.shards_written == 1 and set(decoded) <= {moved}
    assert contents(storage, second.dataset)[moved] == (contents(storage, first.dataset)[moved][0], "bee")
    assert verify_dataset(storage, second.dataset).ok


@pytest.mark.usefixtures("without_ray")
def test_a_lost_class_costs_no_reading_and_gives_the_shards_of_a_first_ingest(storage, data, source, decoded):
    shutil.copy(source / "ant/0001.png", source / "bee/copy.png")
    shard_images(storage, "pets", data(str(source)))
    shutil.rmtree(source / "ant")
    decoded.clear()
    second = shard_images(storage, "pets", data(str(source)))
    assert decoded == [] and second.classes == []  # one class left is none
    straight = Storage(f"{storage.uri}-straight")
    found = shard_images(straight, "pets", data(str(source)))
    assert (found.dataset, found.classes) == (second.dataset, second.classes)
    assert tars(storage, second.dataset) == tars(straight, found.dataset)


@pytest.mark.usefixtures("without_ray")
def test_a_damaged_old_shard_is_named_when_it_is_copied_from(storage, data, source):
    first = shard_images(storage, "pets", data(str(source)))
    key = content_key((source / "ant/0003.png").read_bytes())
    shard = origins_of(storage, first.dataset)["ant/0003.png"]["shard"]
    tar = storage.local_path(f"datasets/pets/shards/{shard}.tar")
    whole = tar.read_bytes()
    at = whole.index(f"{key}.npy".encode()) + 512 + 200
    tar.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    (source / "ant/0003.png").rename(source / "bee/0003.png")
    with pytest.raises(RunFailed, match=f"{shard}.tar in .* is damaged; delete it and shard the images again"):
        shard_images(storage, "pets", data(str(source)))
    tar.unlink()
    again = shard_images(storage, "pets", data(str(source)))
    assert classes_of(storage, again.dataset) == on_disk(source) and verify_dataset(storage, again.dataset).ok


@pytest.mark.usefixtures("without_ray")
def test_rehash_finds_a_change_that_size_and_time_do_not_show(storage, data, source, decoded):
    first = shard_images(storage, "pets", data(str(source)))
    path = source / "ant/0000.png"
    image, mtime = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    image[45] ^= 1
    path.write_bytes(image)
    os.utime(path, ns=(mtime, mtime))
    decoded.clear()
    assert shard_images(storage, "pets", data(str(source))).dataset == first.dataset
    assert decoded == []
    found = shard_images(storage, "pets", data(str(source)), rehash=True)
    assert decoded == [content_key(bytes(image))]  # the others are read, but known
    assert origins_of(storage, found.dataset)["ant/0000.png"]["key"] == decoded[0]


# Compacting and rebuilding


@pytest.mark.usefixtures("without_ray")
def test_compacting_merges_small_shards_from_themselves(storage, data, source, make_tree, decoded):
    for begin in (100, 105, 110):
        make_tree(source, {"ant": range(begin, begin + 5)})
        shard_images(storage, "pets", data(str(source)))
    for path in sorted(source.rglob("*.png"))[:30]:
        path.unlink()
    grown = shard_images(storage, "pets", data(str(source)))
    before, files = contents(storage, grown.dataset), shard_files(storage)
    decoded.clear()
    found = shard_images(storage, "pets", data(str(source)), compact=True)
    assert decoded == [] and found.shards_written > 0
    assert contents(storage, found.dataset) == before == contents(storage, grown.dataset)
    assert files.items() <= shard_files(storage).items()
    old, new = load_manifest(storage, grown.dataset).shards, load_manifest(storage, found.dataset).shards
    assert load_manifest(storage, found.dataset).parent == grown.dataset.digest
    assert len(new) < len(old)
    for split in ("train", "held_out"):
        assert sum(shard.samples - shard.removed < 10 for shard in new if shard.split == split) <= 1
    assert verify_dataset(storage, found.dataset).ok
    # Once is enough.
    again = shard_images(storage, "pets", data(str(source)), compact=True)
    assert (again.dataset, again.shards_written) == (found.dataset, 0)


@pytest.mark.usefixtures("without_ray")
def test_rebuilding_gives_what_a_first_ingest_gives(storage, data, source, make_tree, decoded):
    first = shard_images(storage, "pets", data(str(source)))
    make_tree(source, {"ant": range(90, 100), "cow": range(100, 103)})
    grown = shard_images(storage, "pets", data(str(source)))
    decoded.clear()
    rebuilt = shard_images(storage, "pets", data(str(source)), rebuild=True)
    assert len(decoded) == 93
    straight = Storage(f"{storage.uri}-straight")
    assert shard_images(straight, "pets", data(str(source))).dataset == rebuilt.dataset != grown.dataset
    assert not any(shard.removed for shard in load_manifest(storage, rebuilt.dataset).shards)

    shutil.rmtree(source / "cow")
    for number in range(90, 100):
        (source / f"ant/{number:04}.png").unlink()
    back = shard_images(storage, "pets", data(str(source)), rebuild=True)
    assert (back.dataset, back.shards_written) == (first.dataset, 0)  # those that come out the same are kept


# Two at once, and a table of before


@pytest.mark.usefixtures("without_ray")
def test_a_second_change_of_the_same_dataset_at_once_is_refused(storage, data, source, monkeypatch):
    refused, commit = [], stage.commit_version
    shard_images(storage, "pets", data(str(source)))
    (source / "ant/0000.png").unlink()

    def try_another(*arguments):
        for change in (
            lambda: shard_images(storage, "pets", data(str(source))),
            lambda: forget_images(storage, "pets", {"0" * 32}, really=True),
        ):
            with pytest.raises(UserError, match="dataset pets is being sharded already, or") as error:
                change()
            refused.append(str(error.value))
        shard_images(storage, "others", data(str(source)))
        return commit(*arguments)

    def first_time_only(*arguments):
        monkeypatch.setattr(stage, "commit_version", commit)
        return try_another(*arguments)

    monkeypatch.setattr(stage, "commit_version", first_time_only)
    shard_images(storage, "pets", data(str(source)))
    assert len(refused) == 2 and not any("\n" in told for told in refused)
    shard_images(storage, "pets", data(str(source)))


@pytest.mark.usefixtures("without_ray")
def test_sources_tell_the_size_and_kind_of_each_file(storage, data, source, make_tree, tmp_path):
    shutil.copy(source / "ant/0000.png", source / "bee/copy.png")
    (source / "ant/bad.png").write_bytes(b"no image")
    shard_images(storage, "pets", data(str(source)))
    make_tree(source, {"ant": [200]})
    found = shard_images(storage, "pets", data(str(source)))  # the rows of before are carried on
    for path, row in origins_of(storage, found.dataset).items():
        size = (source / path).stat().st_size
        kind = (0, 0, "") if path == "ant/bad.png" else (16, 16, "RGB")
        assert (row["bytes"], row["width"], row["height"], row["mode"]) == (size, *kind)


# An image that kills its worker


def test_an_image_that_kills_its_worker_is_the_only_one_refused(ray_cluster, storage, data, source, monkeypatch):
    hostile = (source / "ant/0007.png").read_bytes()

    def killing(job, chunk):
        import pipeline.shards.prepare as there

        decode = there.decode

        def deadly(content, rules, path):
            if content == hostile:
                os.kill(os.getpid(), signal.SIGKILL)
            return decode(content, rules, path)

        there.decode = deadly
        try:
            return there.prepare_chunk(job, chunk)
        finally:
            there.decode = decode

    monkeypatch.setattr("pipeline.shards.chunks._LEAST", 8)
    monkeypatch.setattr(stage, "prepare_chunk", killing)
    found = shard_images(storage, "pets", data(str(source)))
    assert found.quarantined == {"kills_the_worker": 1}
    refused = {row["path"]: (row["key"], row["reason"]) for row in quarantine(storage, found.dataset)}
    assert refused == {"ant/0007.png": (content_key(hostile), "kills_the_worker")}
    assert set(contents(storage, found.dataset)) == set(on_disk(source)) - {content_key(hostile)}
    assert verify_dataset(storage, found.dataset).ok

    # It is remembered: nothing is tried again.
    monkeypatch.setattr(stage, "cluster", lambda: pytest.fail("Ray was started"))
    assert shard_images(storage, "pets", data(str(source))).dataset == found.dataset


def test_neighbours_are_read_at_once_up_to_a_bound(storage, monkeypatch):
    draws = np.random.default_rng(0)
    images = [draws.bytes(int(size)) for size in draws.integers(1, 3000, 60)]
    whole, rows = b"", []
    for number, image in enumerate(images):
        whole += bytes(int(draws.integers(0, 9000)))
        rows.append(Row(f"{number}", 0, "part", len(whole), len(image), zlib.crc32(image)))
        whole += image
    storage.write("part", whole)
    monkeypatch.setattr("pipeline.shards.gather._LONGEST", 20_000)
    reads, read_ranges = [], Storage.read_ranges

    def watched(self, path, ranges):
        reads.extend(ranges)
        return read_ranges(self, path, ranges)

    monkeypatch.setattr(Storage, "read_ranges", watched)
    order = draws.permutation(60)
    assert gather(storage, [rows[at] for at in order]) == [images[at] for at in order]
    assert 5 < len(reads) < 50 and max(size for _, size in reads) <= 20_000


@pytest.mark.usefixtures("without_ray")
def test_a_file_that_a_list_names_twice_counts_once_each_time(storage, data, source, tmp_path):
    files = sorted(source.rglob("*.png"))
    rows = [{"path": str(file), "label": file.parent.name} for file in [*files, files[0], files[0]]]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = shard_images(storage, "pets", data(str(tmp_path / "list.jsonl")))
    assert sum(first.samples.values()) == len(files) and first.duplicates == 0
    again = shard_images(storage, "pets", data(str(tmp_path / "list.jsonl")))
    assert (again.dataset, again.shards_written) == (first.dataset, 0)
