"""Tars of other writers, indexed where they lie: what becomes of each sample, and what is refused."""

import gzip
import hashlib
import io
import lzma
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from pipeline.errors import UserError
from pipeline.shards.alone import alone
from pipeline.shards.batches import StreamBatches
from pipeline.shards.damage import DamagedShard
from pipeline.shards.foreign import scan
from pipeline.shards.manifest import Manifest, Shard, index_path, load_manifest
from pipeline.shards.order import Order
from pipeline.shards.read import DatasetReader
from pipeline.shards.verify import verify_dataset
from pipeline.shards.write import content_key, is_held_out
from pipeline.storage import Storage

CLASSES = ("ant", "bee", "cat")


def everything(storage, dataset) -> dict[bytes, str | None]:
    """Pixels to class, of both splits."""
    classes = load_manifest(storage, dataset).classes
    found = {}
    for split in ("train", "held_out"):
        images, labels = DatasetReader(storage, dataset, split).read_all()
        for image, label in zip(images, labels.tolist(), strict=True):
            assert image.tobytes() not in found
            found[image.tobytes()] = classes[label] if label >= 0 else None
    return found


def rows_of(storage, dataset) -> list[dict]:
    manifest = load_manifest(storage, dataset)
    return [
        {**row, "split": shard.split, "uri": shard.uri}
        for shard in manifest.shards
        for row in pq.read_table(io.BytesIO(storage.read(index_path(dataset.name, shard)))).to_pylist()
    ]


def quarantined(storage, dataset) -> dict[str, str]:
    table = pq.read_table(io.BytesIO(storage.read(f"{dataset.folder}/quarantine.parquet")))
    return {row["path"].rpartition("#")[2]: row["reason"] for row in table.to_pylist()}


def test_every_image_of_every_writer_is_read_under_its_class(storage, members, write, index, pixels, writer):
    paths = [write(f"t{n}.tar", members(range(n * 10, n * 10 + 10)), writer) for n in range(3)]
    before = [path.read_bytes() for path in paths]
    found = index(*paths)
    assert (found.tars, found.tars_read, found.quarantined, found.duplicates) == (3, 3, {}, 0)
    assert found.classes == list(CLASSES) and sum(found.samples.values()) == 30
    assert everything(storage, found.dataset) == {pixels(n).tobytes(): CLASSES[n % 3] for n in range(30)}
    assert [path.read_bytes() for path in paths] == before
    assert not list(storage.local_path().rglob("*.tar"))  # nothing is copied


def test_the_index_says_what_the_tar_holds(storage, members, write, index, writer):
    made = members(range(40))
    path = write("t.tar", made, writer)
    found = index(path)
    with tarfile.open(path) as tar:
        rows = rows_of(storage, found.dataset)
        for row in rows:
            member = tar.getmember(row["name"])
            data = made[row["name"]]
            assert (row["offset"], row["size"], row["crc32"]) == (member.offset_data, len(data), zlib.crc32(data))
            assert row["key"] == content_key(data) and (row["width"], row["height"]) == (16, 16)
            assert row["begin"] < row["offset"] and row["end"] >= row["offset"] + row["size"]
            assert row["uri"] == str(path)
            # A split by content, as everywhere.
            assert row["split"] == ("held_out" if is_held_out(row["key"], 0.25) else "train")
    assert len(rows) == 40 and {row["split"] for row in rows} == {"train", "held_out"}
    for split in ("train", "held_out"):
        offsets = [row["offset"] for row in rows if row["split"] == split]
        assert offsets == sorted(offsets)


def test_one_tar_is_two_shards_with_an_index_each(storage, members, write, index):
    path = write("t.tar", members(range(40)))
    train, held = sorted(load_manifest(storage, index(path).dataset).shards, key=lambda shard: -shard.samples)
    assert train.sha256 == held.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (train.split, held.split, train.uri, held.uri) == ("train", "held_out", str(path), str(path))
    assert index_path("tars", train) != index_path("tars", held) and ".train." in index_path("tars", train)


def test_samples_are_those_of_the_webdataset_package(storage, write, index, pixels, png):
    image = [png(pixels(n)) for n in range(5)]
    made = {
        "a/x.y/1.PNG": image[0], "a/x.y/1.CLS": b"ant", "top.seg.png": image[1], "top.cls": b"bee",
        ".hidden.png": image[2], "nodot": b"", "__meta__/2.png": image[3], "3.cls": b"cat", "3.png": image[4],
        "3.txt": b"a caption",
    }  # fmt: skip
    path = write("t.tar", made)
    theirs = {
        (sample["__key__"], next(data for part, data in sample.items() if part.endswith("png")), sample["cls"])
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
        if sample["__key__"] != "/"
    }
    found = index(path, held_out=0)
    classes = load_manifest(storage, found.dataset).classes
    ours = {
        (row["name"].rpartition("/")[0] + "/" * ("/" in row["name"]) + row["name"].rpartition("/")[2].split(".")[0],
         made[row["name"]], classes[row["label"]].encode())
        for row in rows_of(storage, found.dataset)
    }  # fmt: skip
    assert ours == theirs and len(ours) == 3


def test_images_of_each_kind_are_made_as_an_ingest_makes_them(storage, write, index, png):
    grey = np.random.default_rng(0).integers(0, 256, (20, 12), dtype=np.uint8)
    wide = np.random.default_rng(1).integers(0, 256, (16, 40, 3), dtype=np.uint8)

    def npy(array) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    exact = wide[:, :16].copy()
    made = {
        "1.png": png(grey), "2.jpg": png(wide, "JPEG"), "3.jpeg": png(wide[::-1], "JPEG"), "4.webp": png(wide, "WEBP"),
        "5.npy": npy(wide), "6.npy": npy(exact), "7.npy": npy(np.asfortranarray(exact[::-1])), "8.npy": npy(grey),
        "9.jpg": png(wide[:, ::-1]),  # a PNG
    }  # fmt: skip
    found = index(write("t.tar", made), held_out=0)
    images, labels = DatasetReader(storage, found.dataset, "train").read_all()
    assert images.shape == (9, 16, 16, 3) and labels.tolist() == [-1] * 9 and found.quarantined == {}
    assert np.array_equal(images[4], wide[:, 12:28])  # the centre square
    assert np.array_equal(images[5], exact) and np.array_equal(images[6], exact[::-1])
    assert np.array_equal(images[0], images[7])  # the same pixels, another file


def test_a_dataset_that_is_being_changed_is_not_indexed(storage, write, index, pixels, png):
    tar = write("t.tar", {"0.png": png(pixels(0))})
    probe = index(tar, held_out=0)
    with alone(storage, probe.dataset.name), pytest.raises(UserError, match="already, or images are removed from it"):
        index(tar, held_out=0)


def test_npy_that_is_no_image_is_quarantined(storage, write, index, pixels, png):
    def npy(array) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()

    good = npy(pixels(0))
    huge = good.replace(b"(16, 16, 3), ", b"(99999999,9),")
    bad = [npy(pixels(0) / 255), npy(np.zeros((3, 16, 16), np.uint8)), npy(np.array([{}])), good[:-1], huge, good[:9]]
    bad += [npy(np.zeros((0, 4, 3), np.uint8))]
    found = index(write("t.tar", {f"{n}.npy": data for n, data in enumerate([good, *bad])}), held_out=0)
    reasons = ["not_an_image", "not_an_image", "not_an_image", "truncated", "truncated", "corrupt", "truncated"]
    assert quarantined(storage, found.dataset) == {f"{n}.npy": reason for n, reason in enumerate(reasons, 1)}
    assert found.samples["train"] == 1


def test_what_is_no_good_sample_is_quarantined_with_its_reason(storage, write, index, pixels, png, as_json):
    image = [png(pixels(n)) for n in range(12)]
    made = {
        "0.png": image[0], "0.cls": b"ant", "1.png": image[1][:-9], "1.cls": b"ant", "2.cls": b"ant",
        "3.png": image[3], "4.png": image[4], "4.cls": b"\xff", "5.png": image[5], "5.json": b"{",
        "6.png": image[6], "6.json": as_json(label=[1]), "7.png": image[7], "8.png": image[8], "8.cls": b"ant",
        "7.cls": b"ant", "9.png": b"", "9.cls": b"ant", "10.png": image[10], "10.PNG": image[10],
    }  # fmt: skip
    path = write("t.tar", made)
    found = index(path, held_out=0)
    assert quarantined(storage, found.dataset) == {
        "1.png": "truncated", "2": "no_image", "3.png": "no_label", "4.png": "bad_label", "5.png": "bad_label",
        "6.png": "bad_label", "7.png": "repeated_key", "7": "no_image", "9.png": "empty", "10.png": "repeated_key",
    }  # fmt: skip
    assert everything(storage, found.dataset) == {pixels(n).tobytes(): "ant" for n in (0, 8)}
    table = pq.read_table(io.BytesIO(storage.read(f"{found.dataset.folder}/sources.parquet"))).to_pylist()
    kept = [row for row in table if row["status"] == "kept"]
    assert [row["path"] for row in kept] == [f"{path}#0.png", f"{path}#8.png"]
    assert {row["shard"] for row in kept} == {hashlib.sha256(path.read_bytes()).hexdigest()}
    assert len(table) == 12 and {row["status"] for row in table} == {"kept", "quarantined"}


def test_exact_duplicates_are_hidden_within_a_tar_and_over_tars(storage, members, write, index, pixels):
    first = {**members(range(5)), "again.cls": b"cat", "again.png": members([3])["000003.png"]}
    b, a = write("b.tar", members(range(3, 12))), write("a.tar", first)
    copy = write("c.tar", first)
    found = index(b, a, copy, a)
    assert found.tars == 3 and found.duplicates == 1 + 2 + 6 and sum(found.samples.values()) == 12
    assert everything(storage, found.dataset) == {pixels(n).tobytes(): CLASSES[n % 3] for n in range(12)}
    keys = [row["key"] for row in rows_of(storage, found.dataset)]
    assert len(set(keys)) == len(keys) == 12
    assert index(copy, a, b).dataset == found.dataset  # in whatever order they are named


@pytest.mark.parametrize(
    ("labels", "classes"),
    [("auto", ["7", "10"]), ("cls", ["7", "10"]), ("kind", ["x", "y"]), ("none", [])],
)
def test_where_labels_come_from(storage, write, index, pixels, png, as_json, labels, classes):
    made = {}
    for n in range(6):
        made |= {f"{n}.png": png(pixels(n)), f"{n}.cls": [b"7", b"10\n"][n % 2]}
        made |= {f"{n}.json": as_json(label=3, kind="xy"[n % 2])}
    found = index(write("t.tar", made), labels=labels)
    assert found.classes == classes
    wanted = {pixels(n).tobytes(): classes[n % 2] if classes else None for n in range(6)}
    assert everything(storage, found.dataset) == wanted
    assert load_manifest(storage, found.dataset).class_counts == [3] * len(classes)


@pytest.mark.parametrize(
    "values", [{"label": 3}, {"class": "3"}, {"label": "3", "class": 4}, {"label": None, "class": 3}]
)
def test_labels_of_json(storage, write, index, pixels, png, as_json, values):
    found = index(write("t.tar", {"a.png": png(pixels(0)), "a.json": as_json(**values)}))
    assert found.classes == ["3"]


def test_several_images_a_sample_are_refused_until_one_is_named(storage, write, index, pixels, png):
    made = {}
    for n in range(4):
        made |= {f"{n}.mask.png": png(pixels(n + 50)), f"{n}.rgb.png": png(pixels(n))}
    path = write("t.tar", made)
    with pytest.raises(UserError, match=r"t.tar: sample 0 has 2 images, mask.png and rgb.png; say which: --image mask"):
        index(path)
    assert set(everything(storage, index(path, image="rgb.png").dataset)) == {pixels(n).tobytes() for n in range(4)}
    with pytest.raises(UserError, match=r"no valid image .4 no_image"):
        index(path, image="jpg")


BLOCK = 512
REFUSED = {
    "empty": (lambda tar: b"", "it is empty"),
    "gzip": (gzip.compress, "packed with gzip.*unpack it"),
    "xz": (lzma.compress, "packed with xz.*unpack it"),
    "zstd": (lambda tar: b"\x28\xb5\x2f\xfd" + tar[:5000], "packed with zstd.*unpack it"),
    "no tar": (lambda tar: b"all kinds of text " * 300, "no tar"),
    "cut between members": (lambda tar: tar[: 4 * BLOCK], "ends at byte 2048 without"),
    "cut in a payload": (lambda tar: tar[: 4 * BLOCK - 100], "ends at byte 1948 without"),
    "cut in the first header": (lambda tar: tar[:100], "ends at byte 100 without"),
    "a header zeroed": (lambda tar: tar[: 2 * BLOCK] + bytes(BLOCK) + tar[3 * BLOCK :], "at byte 1024 the header is z"),
    "a header damaged": (lambda tar: tar[: 2 * BLOCK] + b"?" + tar[2 * BLOCK + 1 :], "at byte 1024 .* checksum"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_tar_that_is_not_whole_is_refused_by_name_and_nothing_is_committed(storage, write, members, index, reason):
    damage, said = REFUSED[reason]
    good, bad = write("good.tar", members(range(4))), write("bad.tar", members(range(4, 8)))
    whole = bad.read_bytes()
    bad.write_bytes(damage(whole))
    with pytest.raises(UserError, match=f"bad.tar: .*{said}"):
        index(good, bad)
    assert not storage.exists("datasets/tars/latest.json")
    bad.write_bytes(whole)
    assert index(good, bad).tars_read == 1  # what was sound is not read again


def test_a_tar_that_is_as_it_was_is_not_opened(storage, members, write, index, monkeypatch):
    a, b = write("a.tar", members(range(6))), write("b.tar", members(range(6, 12)))
    first = index(a)
    opened = []
    monkeypatch.setattr(
        scan, "open_tar", lambda storage, path, real=scan.open_tar: opened.append(path) or real(storage, path)
    )
    grown = index(a, b)
    assert opened == ["b.tar"] and (grown.tars, grown.tars_read) == (2, 1)
    assert load_manifest(storage, grown.dataset).parent == first.dataset.digest
    assert set(everything(storage, first.dataset)) < set(everything(storage, grown.dataset))  # the old one stays
    assert index(a).dataset == first.dataset and opened == ["b.tar"]
    index(a, resolution=32)
    assert opened == ["b.tar", "a.tar"]  # other rules


def test_a_tar_that_changed_since_is_told_by_the_reader(storage, members, write, index):
    path = write("a.tar", members(range(30)))
    dataset = index(path).dataset
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!")
    with pytest.raises(DamagedShard, match=r"/a.tar is damaged or has changed: restore it, or index it again"):
        DatasetReader(storage, dataset, "train").read_all()
    path.unlink()
    with pytest.raises(DamagedShard, match=r"a.tar is missing from .*; put it back, or index the tars again"):
        DatasetReader(storage, dataset, "train").read_all()


def test_batches_are_a_function_of_the_step(storage, members, write, index, pixels):
    dataset = index(*(write(f"{n}.tar", members(range(n * 20, n * 20 + 20)), "webdataset") for n in range(4))).dataset
    reader = DatasetReader(storage, dataset, "train")
    order = Order(reader.counts, batch=12, streams=4, window=2, seed=7)
    whole = StreamBatches(reader, order, range(4))[3]
    parts = [StreamBatches(DatasetReader(storage, dataset, "train"), order, range(n, n + 1))[3] for n in range(4)]
    assert np.array_equal(np.concatenate([images for images, _ in parts]), whole[0])
    numbers = {pixels(n).tobytes(): n for n in range(80)}
    for image, label in zip(whole[0].permute(0, 2, 3, 1).numpy(), whole[1].tolist(), strict=True):
        assert numbers[image.tobytes()] % 3 == label


def test_progress_ends_with_the_count(members, write, index, heard):

    index(*(write(f"{n}.tar", members(range(n * 5, n * 5 + 5))) for n in range(3)))
    told = heard.told
    assert [done for _, done, _ in told] == [5, 10, 15] and told[-1] == ("index", 15, 15)


def test_a_manifest_without_foreign_tars_is_as_it_always_was():
    shard = Shard("a" * 64, "b" * 64, "train", 3, 4096)
    manifest = Manifest(16, 3, "raw", {}, [], {"train": 3, "held_out": 0}, [], [shard], "c" * 64)
    assert "uri" not in manifest.to_dict()["shards"][0]
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    # Of the code before there were any.
    assert manifest.digest == "827aabf43d24c8eecc4cf0ece9193f5b4b5116396e1308215319cda6ebda45cf"


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_tars_that_are_not_on_this_disk_are_cached_by_what_they_hold(
    storage, members, write, index, pixels, tmp_path, monkeypatch
):
    """A folder that is taken for an object store; its tars have one name in two folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Storage, "is_local", False)
    monkeypatch.setattr(Storage, "write", lambda self, path, data: _write(Path(self.uri, path), data))
    storage.local_path("datasets/tars/lock").mkdir(parents=True)  # which an object store does without
    paths = [write(f"{part}/t.tar", members(range(part * 20, part * 20 + 20))) for part in range(2)]
    dataset = index(f"file://{tmp_path}/{{0,1}}/t.tar").dataset
    wanted = {pixels(n).tobytes(): CLASSES[n % 3] for n in range(40)}
    assert everything(storage, dataset) == wanted and verify_dataset(storage, dataset).ok
    for path in paths:
        path.unlink()
    assert everything(storage, dataset) == wanted
    assert [problem.what for problem in verify_dataset(storage, dataset).problems] == ["the tar is missing"] * 2


def test_a_short_body_is_no_tar(storage, members, write, index, tmp_path, monkeypatch):
    monkeypatch.setattr(Storage, "is_local", False)
    write("t.tar", members(range(5)))
    monkeypatch.setattr(Storage, "read", lambda self, path, whole=Storage.read: whole(self, path)[:4000])
    with pytest.raises(UserError, match=r"t.tar: it has 4000 bytes and \d+ were listed"):
        index(f"file://{tmp_path}/t.tar")
