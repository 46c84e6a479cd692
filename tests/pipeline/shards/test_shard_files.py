"""What lies on disk, read with tools that know nothing of Ganline, and what happens when it is damaged."""

import io
import json
import os
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from PIL import Image

from pipeline.shards.batches import StreamBatches
from pipeline.shards.damage import DamagedShard
from pipeline.shards.encoding import decode, decoder, encode
from pipeline.shards.index import read_index
from pipeline.shards.manifest import DatasetRef, latest_version, load_manifest
from pipeline.shards.on_ray import shard_images
from pipeline.shards.opened import Opener
from pipeline.shards.order import Order, streams_of
from pipeline.shards.read import DatasetReader
from pipeline.shards.ustar import end, member
from pipeline.storage import Storage, sha256

pytestmark = pytest.mark.usefixtures("without_ray")

CLASSES = {"bird": range(0, 20), "cat": range(20, 50), "ant": range(50, 60)}


@pytest.fixture
def folder(make_tree, tmp_path) -> str:
    return make_tree(tmp_path / "images", CLASSES)


@pytest.fixture
def dataset(storage, data, folder) -> DatasetRef:
    return shard_images(storage, "pets", data(folder)).dataset


def files(storage: Storage, suffix: str) -> list[Path]:
    return sorted(storage.local_path("datasets/pets/shards").glob(f"*.{suffix}"))


def number_of(image: np.ndarray, pixels) -> int:
    """Which of the images of CLASSES this is, to the bit."""
    return next(number for number in range(60) if np.array_equal(pixels(number, image.shape[2]), image))


def label_of(number: int) -> int:
    """Classes are numbered by name: ant, bird, cat."""
    return 1 if number < 20 else 2 if number < 50 else 0


def test_every_image_comes_back_bitwise_under_its_class(storage, dataset, pixels):
    seen = {}
    for split in ("train", "held_out"):
        images, labels = DatasetReader(storage, dataset, split).read_all()
        assert images.dtype == np.uint8 and labels.dtype == np.int64 and len(images) > 5
        for image, label in zip(images, labels, strict=True):
            seen[number_of(image, pixels)] = int(label)
    assert load_manifest(storage, dataset).classes == ["ant", "bird", "cat"]
    assert load_manifest(storage, dataset).class_counts == [10, 20, 30]
    assert seen == {number: label_of(number) for number in range(60)}


@pytest.mark.parametrize("encoding", ["raw", "png", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_encoding_keeps_every_bit(storage, data, make_tree, tmp_path, pixels, encoding, channels):
    source = make_tree(tmp_path / "images", {"a": range(8), "b": range(8, 12)}, channels)
    found = shard_images(storage, "pets", data(source, channels=channels, encoding=encoding, held_out=0))
    images, _ = DatasetReader(storage, found.dataset, "train").read_all()
    assert images.shape == (12, 16, 16, channels)
    assert {number_of(image, pixels) for image in images} == set(range(12))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [30, 95, 100])
def test_jpeg_decodes_to_the_pixels_that_pillow_decodes_it_to(storage, data, make_tree, tmp_path, channels, quality):
    source = make_tree(tmp_path / "images", {".": range(6)}, channels)
    keys = {"channels": channels, "encoding": "jpeg", "quality": quality, "held_out": 0}
    found = shard_images(storage, "pets", data(source, **keys))
    images, _ = DatasetReader(storage, found.dataset, "train").read_all()
    with tarfile.open(files(storage, "tar")[0]) as tar:
        pictures = [Image.open(io.BytesIO(tar.extractfile(member).read())) for member in tar]
    assert [picture.format for picture in pictures] == ["JPEG"] * 6
    assert all(channels == 1 or {(h, v) for _, h, v, _ in picture.layer} == {(1, 1)} for picture in pictures)  # 4:4:4
    for image, picture in zip(images, pictures, strict=True):
        assert np.array_equal(image, np.asarray(picture).reshape(16, 16, channels))


def test_the_quality_is_part_of_a_jpeg_dataset_and_of_no_other(storage, data, folder, pixels):
    assert len(encode(pixels(0), "jpeg", 50)) < len(encode(pixels(0), "jpeg")) == len(encode(pixels(0), "jpeg", 95))
    versions = {
        (encoding, quality): shard_images(storage, "pets", data(folder, encoding=encoding, quality=quality)).dataset
        for encoding in ("raw", "jpeg")
        for quality in (80, 95)
    }
    assert versions["raw", 80] == versions["raw", 95]
    assert versions["jpeg", 80] != versions["jpeg", 95]


@pytest.mark.parametrize("encoding", ["raw", "png", "webp"])
def test_equal_pixels_give_equal_bytes_however_they_lie_in_memory(pixels, encoding):
    image = pixels(3)
    turned = np.ascontiguousarray(image.transpose(1, 0, 2)).transpose(1, 0, 2)
    assert not turned.flags["C_CONTIGUOUS"]
    assert encode(turned, encoding) == encode(image, encoding)
    assert np.array_equal(decode(encode(turned, encoding), encoding, 3), image)


def test_bytes_of_another_encoding_are_refused(pixels):
    out = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    for stored, read_as in (("raw", "png"), ("png", "raw"), ("png", "webp"), ("png", "jpeg"), ("jpeg", "raw")):
        data = encode(pixels(0), stored)
        with pytest.raises((ValueError, OSError)):
            decode(data, read_as, 3)
        with pytest.raises((ValueError, OSError)):
            decoder(read_as, out)(0, memoryview(data))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    for read in (lambda data: decode(data, "raw", 3), lambda data: decoder("raw", out)(0, memoryview(data))):
        with pytest.raises(ValueError, match="allow_pickle"):  # a pickle could run code
            read(pickled.getvalue())


@pytest.mark.parametrize("encoding", ["raw", "png", "webp", "jpeg"])
def test_an_image_of_another_shape_is_no_image_of_the_dataset(pixels, encoding):
    out = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    for other in (np.zeros((8, 8, 3), np.uint8), np.zeros((16, 32, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"it holds|too small"):
            decoder(encoding, out)(0, memoryview(encode(other, encoding)))
    decoder(encoding, out)(1, memoryview(encode(pixels(0), encoding)))
    assert np.array_equal(out[1], decode(encode(pixels(0), encoding), encoding, 3))


def test_raw_images_with_another_header_are_read_too(pixels):
    # Whoever indexes a tar made elsewhere may meet one of these.
    out = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    for version, array in (((2, 0), pixels(1)), ((1, 0), np.asfortranarray(pixels(1)))):
        data = io.BytesIO()
        np.lib.format.write_array(data, array, version=version)
        out[:] = 0
        decoder("raw", out)(1, memoryview(data.getvalue()))
        assert np.array_equal(out[1], pixels(1))


def test_the_webdataset_package_reads_the_tars(storage, dataset, pixels):
    paths = [str(path) for path in files(storage, "tar")]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode().to_tuple("__key__", "npy", "cls"))
    assert {number_of(image, pixels): label for _, image, label in samples} == {n: label_of(n) for n in range(60)}
    assert len({key for key, _, _ in samples}) == 60


@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_the_webdataset_package_decodes_compressed_images(storage, data, folder, pixels, encoding):
    shard_images(storage, "pets", data(folder, encoding=encoding))
    paths = [str(path) for path in files(storage, "tar")]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8").to_tuple(encoding, "cls"))
    assert {number_of(image, pixels): label for image, label in samples} == {n: label_of(n) for n in range(60)}


def test_gnu_tar_lists_and_extracts_them(storage, dataset, tmp_path):
    for number, path in enumerate(files(storage, "tar")):
        listed = subprocess.run(
            ["tar", "--full-time", "-tvf", path], env={**os.environ, "TZ": "UTC"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert listed.stderr == ""
        # Where a tar names an owner, GNU tar shows the name instead of the number.
        assert all(
            line.startswith("-r--r--r-- 0/0 ") and " 1970-01-01 00:00:00 " in line
            for line in listed.stdout.splitlines()
        )
        out = tmp_path / f"out{number}"
        out.mkdir()
        subprocess.run(["tar", "--extract", "--file", path, "--directory", out], check=True)
        index = read_index(path.with_suffix(".parquet").read_bytes())
        whole = path.read_bytes()
        assert len(list(out.iterdir())) == 2 * len(index.offset)
        for key, offset, size, label in zip(index.keys.to_pylist(), index.offset, index.size, index.label, strict=True):
            assert (out / f"{key}.npy").read_bytes() == whole[offset : offset + size]
            assert (out / f"{key}.cls").read_text() == str(label)


def test_headers_are_plain_ustar_with_integer_mtime_and_no_owner(storage, dataset):
    for path in files(storage, "tar"):
        data, at = path.read_bytes(), 0
        while any(header := data[at : at + 512]):
            assert header[156:157] == b"0"  # a regular file: neither a PAX header (x, g) nor a GNU long name (L)
            assert header[257:265] == b"ustar\x0000"
            assert int(header[108:115], 8) == int(header[116:123], 8) == 0  # uid, gid
            assert header[136:147] == b"0" * 11  # mtime
            assert header[265:329] == bytes(64)  # names of owner and group
            at += 512 + -(-int(header[124:135], 8) // 512) * 512
        assert not any(data[at:])


def test_the_index_says_what_the_tar_holds(storage, dataset):
    for path in files(storage, "tar"):
        index = pq.read_table(path.with_suffix(".parquet")).to_pylist()
        with tarfile.open(path) as tar:
            members = {member.name: member for member in tar}
            for row in index:
                member = members.pop(f"{row['key']}.npy")
                data = tar.extractfile(member).read()
                assert (row["offset"], row["size"]) == (member.offset_data, member.size)
                assert row["crc32"] == zlib.crc32(data)
                assert int(tar.extractfile(members.pop(f"{row['key']}.cls")).read()) == row["label"]
                assert (row["width"], row["height"]) == np.load(io.BytesIO(data)).shape[1::-1] == (16, 16)
        assert not members
        assert [row["key"] for row in index] == sorted(row["key"] for row in index)  # content order, not path order


def test_images_without_classes_have_no_label_and_no_cls_member(storage, data, make_tree, tmp_path):
    source = make_tree(tmp_path / "images", {".": range(12)})
    found = shard_images(storage, "pets", data(source, held_out=0))
    _, labels = DatasetReader(storage, found.dataset, "train").read_all()
    assert found.classes == [] and labels.tolist() == [-1] * 12
    with tarfile.open(files(storage, "tar")[0]) as tar:
        assert all(name.endswith(".npy") for name in tar.getnames())


def test_shards_are_named_by_their_bytes_and_the_manifest_names_both_files(storage, dataset):
    manifest = load_manifest(storage, dataset)
    assert {shard.sha256 for shard in manifest.shards} == {path.stem for path in files(storage, "tar")}
    for shard in manifest.shards:
        tar = storage.read(f"datasets/pets/shards/{shard.sha256}.tar")
        index = storage.read(f"datasets/pets/shards/{shard.sha256}.parquet")
        assert (sha256(tar), len(tar), sha256(index)) == (shard.sha256, shard.bytes, shard.index_sha256)
        assert shard.samples == len(read_index(index).offset) <= 20


def read_all(storage: Storage, dataset: DatasetRef) -> None:
    DatasetReader(storage, dataset, "train").read_all()


def a_train_shard(storage: Storage, dataset: DatasetRef) -> str:
    return str(load_manifest(storage, dataset).of_split("train")[0].sha256)


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "gone"])
@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_damaged_shard_or_index_is_named(storage, dataset, damage, suffix):
    path = storage.local_path(f"datasets/pets/shards/{a_train_shard(storage, dataset)}.{suffix}")
    whole = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        whole[len(whole) // 2] ^= 0x10
        path.write_bytes(whole if damage == "bit" else whole[: len(whole) // 2] if damage == "cut" else b"")
    with pytest.raises(DamagedShard, match=f"{path.name} is {'missing' if damage == 'gone' else 'damaged'}"):
        read_all(storage, dataset)


def test_a_bit_that_flips_under_an_open_reader_is_caught_by_its_crc(storage, dataset):
    reader = DatasetReader(storage, dataset, "train")
    first = np.array([0])
    reader.read(first, first)
    shard = a_train_shard(storage, dataset)
    index = read_index(storage.read(f"datasets/pets/shards/{shard}.parquet"))
    with open(storage.local_path(f"datasets/pets/shards/{shard}.tar"), "r+b") as file:
        file.seek(int(index.offset[3] + index.size[3]) - 1)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([last ^ 1]))
    reader.read(first, first)  # the others can still be read
    place = f"shard {shard[:12]} of pets: sample {index.keys[3]} at byte {index.offset[3]}: its bytes have changed"
    with pytest.raises(DamagedShard, match=place):
        reader.read(first, np.array([3]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda manifest: {**manifest, "shards": manifest["shards"][1:]}, "altered"),
        (lambda manifest: {**manifest, "samples": {"train": 1, "held_out": 1}}, "altered"),
        (lambda manifest: {**manifest, "schema": 2}, "schema 2 is not 1"),
        (lambda manifest: {**manifest, "more": 1}, "cannot be read"),
        (lambda manifest: {key: manifest[key] for key in manifest if key != "shards"}, "cannot be read"),
        (lambda manifest: {**manifest, "shards": 3}, "cannot be read"),
        (lambda manifest: [manifest], "cannot be read"),
        (lambda manifest: None, "cannot be read"),
    ],
)
def test_an_altered_manifest_is_refused_by_name(storage, dataset, change, said):
    path = f"{dataset.folder}/manifest.json"
    changed = change(storage.read_json(path))
    storage.write(path, json.dumps(changed).encode() if changed else b"\x80{")
    with pytest.raises(ValueError, match=f"the manifest of pets version {dataset.digest[:12]} .*{said}"):
        read_all(storage, dataset)


def test_another_parent_in_a_manifest_does_not_make_it_another_version(storage, dataset):
    path = f"{dataset.folder}/manifest.json"
    storage.write_json(path, {**storage.read_json(path), "parent": "f" * 64})
    read_all(storage, dataset)


@pytest.mark.parametrize("damage", ["altered", "gone"])
def test_a_damaged_table_of_removed_images_is_named(storage, data, folder, dataset, damage):
    Path(folder, "cat/0020.png").unlink()
    Path(folder, "cat/0021.png").unlink()
    shrunken = shard_images(storage, "pets", data(folder)).dataset
    splits = [split for split in ("train", "held_out") if any(
        shard.removed for shard in load_manifest(storage, shrunken).of_split(split)
    )]  # fmt: skip
    path = f"{shrunken.folder}/removed.parquet"
    if damage == "altered":  # by the table of the version before, in which nothing is removed
        storage.write(path, storage.read(f"{dataset.folder}/removed.parquet"))
    else:
        storage.delete(path)
    with pytest.raises(DamagedShard, match=path):
        DatasetReader(storage, shrunken, splits[0]).read_all()


def test_stream_batches_are_the_same_at_every_world_size(storage, dataset, pixels):
    def batches(streams: range) -> list[tuple[torch.Tensor, torch.Tensor]]:
        reader = DatasetReader(storage, dataset, "train")
        order = Order(reader.counts, batch=12, streams=4, window=2, seed=7)
        rows = StreamBatches(reader, order, streams)
        return [rows[step] for step in (0, 1, 5, 100)]

    alone = batches(range(4))
    for images, labels in alone:
        assert images.shape == (12, 3, 16, 16) and images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        for image, label in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
            assert label == label_of(number_of(image, pixels))
    for world in (2, 3, 4):
        ranks = [batches(streams_of(rank, world, 4)) for rank in range(world)]
        for step, (images, labels) in enumerate(alone):
            assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
            assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), labels)


@pytest.mark.parametrize(("room", "times"), [(1, 4), (2, 2)])
def test_shards_are_held_open_while_there_is_room(storage, dataset, monkeypatch, room, times):
    opened, really = [], Opener.open
    monkeypatch.setattr(Opener, "open", lambda self, shard, **how: opened.append(shard) or really(self, shard, **how))
    monkeypatch.setattr("pipeline.shards.read._room", lambda counts: room)
    reader = DatasetReader(storage, dataset, "train", keep_open=1)
    assert len(reader.counts) > 1
    everything = np.concatenate([reader.read(np.array([n]), np.array([0]))[0] for n in (0, 1, 0, 1)])
    assert np.array_equal(everything[:2], everything[2:])
    assert len(opened) == times


class Remote(Storage):
    """A folder that the reader takes for an object store: what it reads goes through its cache."""

    is_local = False  # type: ignore[assignment]


def test_shards_elsewhere_are_read_through_a_verified_cache(storage, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = Remote(storage.uri)
    expected = DatasetReader(storage, dataset, "train").read_all()
    first = DatasetReader(remote, dataset, "train").read_all()
    for path in files(storage, "tar"):
        path.unlink()
    second = DatasetReader(remote, dataset, "train").read_all()  # from the cache alone
    for images, labels in (first, second):
        assert np.array_equal(images, expected[0]) and np.array_equal(labels, expected[1])

    # A spoilt copy is fetched anew, and missed once there is nothing to fetch.
    cached = tmp_path / "cache/ganline/shards" / f"{a_train_shard(storage, dataset)}.tar"
    whole = cached.read_bytes()
    cached.write_bytes(whole[:-1])
    with pytest.raises(DamagedShard, match=f"{cached.name} is missing"):
        DatasetReader(remote, dataset, "train").read_all()
    storage.write(f"datasets/pets/shards/{cached.name}", whole)
    cached.write_bytes(whole[:-1])
    images, _ = DatasetReader(remote, dataset, "train").read_all()
    assert np.array_equal(images, expected[0]) and cached.read_bytes() == whole


def test_a_missing_version_says_so(storage, dataset):
    assert latest_version(storage, "pets") == dataset
    assert latest_version(storage, "other") is None
    with pytest.raises(FileNotFoundError):
        load_manifest(storage, DatasetRef("pets", "0" * 64))


def test_bytes_that_are_no_index_are_refused():
    with pytest.raises(ValueError, match="not a shard index"):
        read_index(b"PAR1 and then nothing of the kind")


def test_pixels_do_not_depend_on_the_file_format_of_the_source(storage, data, tmp_path, pixels):
    # The same pixels as BMP and as PNG are two images (the key is over the file's bytes), each bitwise right.
    for name in ("a.png", "b.bmp"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels(1)).save(tmp_path / "images" / name)
    found = shard_images(storage, "pets", data(str(tmp_path / "images"), held_out=0))
    images, _ = DatasetReader(storage, found.dataset, "train").read_all()
    assert len(images) == 2 and all(np.array_equal(image, pixels(1)) for image in images)


def test_headers_have_the_bytes_that_tarfile_writes():
    buffer, ours = io.BytesIO(), b""
    sizes = [0, 1, 511, 512, 513, 12_416, 8**7, 123_456]
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, size in enumerate(sizes):
            name, data = f"{sha256(bytes([number]))[: 4 + 8 * number]}.npy", os.urandom(size)
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = size, 0, 0o444
            tar.addfile(info, io.BytesIO(data))
            ours += b"".join(member(name, data))
    assert ours + end(len(ours)) == buffer.getvalue()
    for size in range(0, 12_000, 512):  # the end fills tar's records
        assert (size + len(end(size))) % tarfile.RECORDSIZE == 0 and len(end(size)) >= 1024
