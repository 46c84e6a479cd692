"""Eight ways to spoil a tar: each is named by the reader, or skipped, recorded, and skipped again on resume."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.shards.batches import StreamBatches
from pipeline.shards.damage import DamagedShard, Skips, read_skips
from pipeline.shards.index import Index, read_index
from pipeline.shards.manifest import DatasetRef, load_manifest
from pipeline.shards.on_ray import shard_images
from pipeline.shards.order import Order, streams_of
from pipeline.shards.read import DatasetReader
from pipeline.storage import Storage

pytestmark = pytest.mark.usefixtures("without_ray")

ROW = 4  # of the sample that is hit


@pytest.fixture
def dataset(storage, data, make_tree, tmp_path) -> DatasetRef:
    folder = make_tree(tmp_path / "images", {"ant": range(0, 30), "bee": range(30, 60)})
    return shard_images(storage, "pets", data(folder, held_out=0)).dataset


@pytest.fixture
def hit(storage, dataset) -> tuple[Path, Index]:
    """The tar of the first shard, and its index."""
    path = storage.local_path(f"datasets/pets/shards/{load_manifest(storage, dataset).shards[0].sha256}.tar")
    return path, read_index(path.with_suffix(".parquet").read_bytes())


def cut_at_a_member(tar: bytearray, header: int, begin: int, size: int) -> bytes:
    return tar[:header]


def cut_in_a_payload(tar: bytearray, header: int, begin: int, size: int) -> bytes:
    return tar[: begin + size // 2]


def zero_a_header(tar: bytearray, header: int, begin: int, size: int) -> bytes:
    tar[header : header + 512] = bytes(512)
    return tar


def garble_a_header(tar: bytearray, header: int, begin: int, size: int) -> bytes:
    tar[header : header + 512] = np.random.default_rng(0).bytes(512)
    return tar


def flip_a_checksum(tar: bytearray, header: int, begin: int, size: int) -> bytes:
    tar[header + 148] ^= 1
    return tar


def flip_a_payload_bit(tar: bytearray, header: int, begin: int, size: int) -> bytes:
    tar[begin + size - 1] ^= 1
    return tar


def take_a_member_out(tar: bytearray, header: int, begin: int, size: int) -> bytes:
    end = begin + -(-size // 512) * 512
    return tar[:header] + tar[end:]


def empty(tar: bytearray, header: int, begin: int, size: int) -> bytes:
    return b""


Spoil = Callable[[bytearray, int, int, int], bytes]
# What is done, whether the sample is named by its header or by its bytes, what is said, and how many images are lost.
CASES: list[tuple[Spoil, str, str, int]] = [
    (cut_at_a_member, "header", "the tar ends before it", 16),
    (cut_in_a_payload, "bytes", "the tar ends within it", 16),
    (zero_a_header, "header", "its header is zeroed", 0),
    (garble_a_header, "header", "its header has changed", 0),
    (flip_a_checksum, "header", "its header has changed", 0),
    (flip_a_payload_bit, "bytes", "its bytes have changed", 1),
    (take_a_member_out, "header", "lies where its image should", 16),
    (empty, "start", "the tar ends before it", 20),
]
each_case = pytest.mark.parametrize(("spoil", "where", "said", "lost"), CASES, ids=[case[0].__name__ for case in CASES])


def spoil_tar(hit: tuple[Path, Index], spoil: Spoil) -> None:
    path, index = hit
    begin, size = int(index.offset[ROW]), int(index.size[ROW])
    path.write_bytes(spoil(bytearray(path.read_bytes()), begin - 512, begin, size))


@each_case
def test_each_corruption_is_named_with_shard_offset_and_key(storage, dataset, hit, spoil, where, said, lost):
    spoil_tar(hit, spoil)
    path, index = hit
    offset, key = {
        "header": (int(index.offset[ROW]) - 512, index.keys[ROW]),
        "bytes": (int(index.offset[ROW]), index.keys[ROW]),
        "start": (0, index.keys[0]),
    }[where]
    with pytest.raises(DamagedShard) as error:
        DatasetReader(storage, dataset, "train").read(np.array([0]), np.array([0]))
    assert str(error.value).startswith(f"shard {path.stem[:12]} of pets: sample {key} at byte {offset}: ")
    assert said in str(error.value) and "\n" not in str(error.value)


@each_case
def test_under_skip_what_is_whole_is_served_and_the_rest_replaced(
    storage, dataset, hit, spoil, where, said, lost, pixels
):
    whole, labels = DatasetReader(storage, dataset, "train").read_all()
    spoil_tar(hit, spoil)
    images, shown = DatasetReader(storage, dataset, "train", skips=Skips(storage, "skips")).read_all()
    same = [np.array_equal(one, other) for one, other in zip(images, whole, strict=True)]
    assert same.count(False) == lost
    index = hit[1]
    skips = read_skips(storage, "skips")
    assert {skip.key for skip in skips} >= {index.keys[row].as_py() for row in range(20) if not same[row]}
    assert {skip.shard for skip in skips} <= {hit[0].stem} and len(skips) == lost
    assert {(skip.key, skip.offset) for skip in skips} <= set(
        zip(index.keys.to_pylist(), index.offset.tolist(), strict=True)
    )
    # What stands in is a whole image of the split, under its own label.
    known = {one.tobytes(): label for one, label in zip(whole, labels, strict=True)}
    assert all(known[image.tobytes()] == label for image, label in zip(images, shown, strict=True))


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_lost_file_is_skipped_too(storage, dataset, hit, suffix):
    whole, _ = DatasetReader(storage, dataset, "train").read_all()
    hit[0].with_suffix(f".{suffix}").unlink()
    images, _ = DatasetReader(storage, dataset, "train", skips=Skips(storage, "skips")).read_all()
    assert np.array_equal(images[20:], whole[20:])
    assert len(read_skips(storage, "skips")) == 20


def test_a_set_of_which_nothing_is_left_is_not_read_for_ever(storage, dataset):
    for path in storage.local_path("datasets/pets/shards").glob("*.tar"):
        path.write_bytes(b"")
    with pytest.raises(DamagedShard, match="hardly an image of pets can be read"):
        DatasetReader(storage, dataset, "train", skips=Skips(storage, "skips")).read(np.array([0]), np.array([0]))


def batches(storage: Storage, dataset: DatasetRef, steps: range, world: int = 1) -> list[torch.Tensor]:
    """Images of global batches, from readers that have just begun, as after a resume."""
    parts = []
    for rank in range(world):
        reader = DatasetReader(storage, dataset, "train", skips=Skips(storage, "runs/r/skips"))
        order = Order(reader.counts, batch=12, streams=4, window=1, seed=1)
        rank_batches = StreamBatches(reader, order, streams_of(rank, world, 4))
        parts.append([rank_batches[step][0] for step in steps])
    return [torch.cat(each) for each in zip(*parts, strict=True)]


@pytest.mark.parametrize("world", [1, 3])
def test_every_rank_keeps_its_steps_and_shows_what_one_alone_would(storage, dataset, hit, world):
    spoil_tar(hit, cut_in_a_payload)
    alone = batches(storage, dataset, range(10))
    met = len(read_skips(storage, "runs/r/skips"))
    assert met == 16
    storage.delete_folder("runs/r/skips")
    found = batches(storage, dataset, range(10), world)
    assert [len(one) for one in found] == [12] * 10
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_a_resumed_run_skips_what_it_skipped_even_if_it_is_whole_again(storage, dataset, hit):
    sound = hit[0].read_bytes()
    before = batches(storage, dataset, range(10))
    spoil_tar(hit, cut_in_a_payload)
    shown = batches(storage, dataset, range(5, 10))  # damage is met from step 5 on
    assert any(not torch.equal(one, other) for one, other in zip(shown, before[5:], strict=True))
    hit[0].write_bytes(sound)
    again = batches(storage, dataset, range(10))
    assert all(torch.equal(one, other) for one, other in zip(again[5:], shown, strict=True))
    # Before it was met the run showed what it was.
    assert all(torch.equal(one, other) for one, other in zip(again[:5], before[:5], strict=True))


def test_damage_that_a_second_reading_does_not_find_is_none(storage, dataset, hit):
    path, index = hit
    whole, _ = DatasetReader(storage, dataset, "train").read_all()
    reader = DatasetReader(storage, dataset, "train")
    first = np.array([0])
    reader.read(first, first)
    # The file under the open map is spoilt; a sound one takes its place before the reader looks again.
    sound = path.read_bytes()
    replacement = path.with_suffix(".new")
    replacement.write_bytes(sound)
    with open(path, "r+b") as file:
        file.seek(int(index.offset[ROW]) + 200)
        file.write(b"\xff\x00\xff")
    os.replace(replacement, path)
    images, _ = reader.read(first, np.array([ROW]))
    assert np.array_equal(images[0], whole[ROW])


def test_an_index_that_disagrees_with_the_manifest_is_refused(storage, dataset, hit):
    reader = DatasetReader(storage, dataset, "train")
    shard = reader.shards[0]
    for key in ("samples", "removed", "bytes"):
        object.__setattr__(shard, key, getattr(shard, key) - 1)
        with pytest.raises(DamagedShard):
            reader.read(np.array([0]), np.array([0]))
        object.__setattr__(shard, key, getattr(shard, key) + 1)
    reader.read(np.array([0]), np.array([0]))
