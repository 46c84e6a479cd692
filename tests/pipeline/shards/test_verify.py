"""What is damaged is named: the shard, where in it, and which sample. Nothing that lies in storage makes it raise."""

import io
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.shards.index import Index, read_index
from pipeline.shards.manifest import DatasetRef, Shard, load_manifest
from pipeline.shards.on_ray import shard_images
from pipeline.shards.verify import Problem, resolve_dataset, verify_dataset

pytestmark = pytest.mark.usefixtures("without_ray")

BLOCK = 512


@pytest.fixture
def folder(make_tree, tmp_path) -> Path:
    return Path(make_tree(tmp_path / "images", {"ant": range(0, 25), "bee": range(25, 50)}))


@pytest.fixture
def dataset(storage, data, folder) -> DatasetRef:
    return shard_images(storage, "pets", data(str(folder))).dataset


@dataclass
class Tar:
    """One shard of the dataset, to be damaged. A sample is a `.cls` member and then an `.npy` one."""

    path: Path
    shard: Shard
    index: Index
    members: list[tarfile.TarInfo]

    @property
    def keys(self) -> list[str]:
        return self.index.keys.to_pylist()

    def member(self, row: int, suffix: str) -> tarfile.TarInfo:
        return next(member for member in self.members if member.name == f"{self.keys[row]}.{suffix}")

    def patch(self, offset: int, data: bytes) -> None:
        whole = bytearray(self.path.read_bytes())
        whole[offset : offset + len(data)] = data
        self.path.write_bytes(whole)

    def flip(self, offset: int, bit: int = 1) -> None:
        self.patch(offset, bytes([self.path.read_bytes()[offset] ^ bit]))

    def cut(self, length: int) -> None:
        self.path.write_bytes(self.path.read_bytes()[:length])

    def drop(self, begin: int, end: int) -> None:
        whole = self.path.read_bytes()
        self.path.write_bytes(whole[:begin] + whole[end:])


@pytest.fixture
def tar(storage, dataset) -> Tar:
    shard = load_manifest(storage, dataset).of_split("train")[1]
    path = storage.local_path(f"datasets/pets/shards/{shard.sha256}.tar")
    with tarfile.open(path) as opened:
        return Tar(path, shard, read_index(path.with_suffix(".parquet").read_bytes()), opened.getmembers())


@pytest.fixture
def found(storage, dataset, tar):
    """The problems, all of them of the damaged shard."""

    def look() -> list[Problem]:
        verification = verify_dataset(storage, dataset)
        assert not verification.ok
        assert {problem.shard for problem in verification.problems} == {tar.shard.sha256}
        return verification.problems

    return look


def one(problems: list[Problem]) -> tuple[int | None, str | None, str]:
    assert len(problems) == 1, problems
    return problems[0].offset, problems[0].key, problems[0].what


def test_a_sound_version_has_no_problem_and_every_byte_of_it_was_read(storage, dataset):
    manifest = load_manifest(storage, dataset)
    verification = verify_dataset(storage, dataset)
    assert verification.ok and verification.problems == []
    assert (verification.shards, verification.samples) == (len(manifest.shards), 50)
    read = [f"{dataset.folder}/manifest.json", f"{dataset.folder}/removed.parquet"]
    read += [f"datasets/pets/shards/{s.sha256}.{kind}" for s in manifest.shards for kind in ("tar", "parquet")]
    assert verification.bytes == sum(len(storage.read(path)) for path in read)


@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_a_shrunken_version_of_any_encoding_is_sound(storage, data, folder, encoding):
    shard_images(storage, "pets", data(str(folder), encoding=encoding))
    for number in range(4):
        (folder / f"ant/{number:04}.png").unlink()
    shrunken = shard_images(storage, "pets", data(str(folder), encoding=encoding)).dataset
    assert sum(shard.removed for shard in load_manifest(storage, shrunken).shards) == 4
    assert verify_dataset(storage, shrunken).problems == []


def test_images_without_classes_are_sound(storage, data, make_tree, tmp_path):
    source = make_tree(tmp_path / "plain", {".": range(12)})
    assert verify_dataset(storage, shard_images(storage, "plain", data(source)).dataset).ok


def test_progress_counts_samples_to_the_end(storage, dataset, heard):

    verify_dataset(storage, dataset)
    told = heard.told
    assert told[0] == ("verify", 0, 50) and told[-1] == ("verify", 50, 50)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


# The eight corruptions.


@pytest.mark.parametrize("suffix", ["cls", "npy"])
def test_cut_at_a_member_boundary(tar, found, suffix):
    at = tar.member(4, suffix).offset
    tar.cut(at)
    offset, key, what = one(found())
    assert (offset, key) == (at, tar.keys[4])
    assert f"after {at} of {tar.shard.bytes} bytes; {len(tar.keys) - 4} samples are lost" in what


@pytest.mark.parametrize("into", [0, 1, 700])
def test_cut_inside_a_payload(tar, found, into):
    at = int(tar.index.offset[4]) + into
    tar.cut(at)
    assert one(found())[:2] == (at, tar.keys[4])


@pytest.mark.parametrize("suffix", ["cls", "npy"])
@pytest.mark.parametrize("row", [0, 4, -1])
def test_header_zeroed(tar, found, suffix, row):
    at = tar.member(row, suffix).offset
    tar.patch(at, bytes(BLOCK))
    assert one(found()) == (at, tar.keys[row], "the header is zeroed")


@pytest.mark.parametrize("suffix", ["cls", "npy"])
@pytest.mark.parametrize("row", [0, 4, -1])
def test_header_garbled(tar, found, suffix, row):
    at = tar.member(row, suffix).offset
    tar.patch(at, random.Random(1).randbytes(BLOCK))
    assert one(found()) == (at, tar.keys[row], "the header is damaged: its checksum is wrong")


@pytest.mark.parametrize("row", [0, 4, -1])
def test_checksum_flipped(tar, found, row):
    at = tar.member(row, "npy").offset
    tar.flip(at + 150)
    assert one(found()) == (at, tar.keys[row], "the header is damaged: its checksum is wrong")


def test_payload_bit_flipped(tar, found):
    at = int(tar.index.offset[4])
    tar.flip(at + 300)
    offset, key, what = one(found())
    assert (offset, key) == (at, tar.keys[4]) and "crc32 is wrong, and it decodes to other pixels" in what
    tar.flip(at)  # the first byte of .npy's magic
    assert "does not decode" in one(found())[2]


def test_payload_of_a_class_flipped(tar, found):
    member = tar.member(4, "cls")
    tar.flip(member.offset_data)
    label = int(tar.index.label[4])
    assert one(found()) == (
        member.offset_data, tar.keys[4], f"its class is '{label ^ 1}' in the tar and {label} in the index"
    )  # fmt: skip


@pytest.mark.parametrize("row", [0, 4])
def test_member_missing(tar, found, row):
    image = tar.member(row, "npy")
    end = int(tar.index.offset[row]) + -(-image.size // BLOCK) * BLOCK
    tar.drop(image.offset, end)
    missing, moved = found()
    assert one([missing]) == (image.offset, tar.keys[row], "the image is missing from the tar")
    gap, after = end - image.offset, len(tar.keys) - row - 2
    assert moved.key == tar.keys[row + 1] and moved.offset == int(tar.index.offset[row + 1]) - gap
    assert moved.what.startswith(f"the image lies {gap} bytes before where the index has it")
    assert moved.what.endswith(f"so with the {after} samples after it")


def test_last_member_missing(tar, found):
    image = tar.member(-1, "npy")
    tar.drop(image.offset, image.offset_data + -(-image.size // BLOCK) * BLOCK)
    assert one(found()) == (image.offset, tar.keys[-1], "the image is missing from the tar")


def test_class_member_missing(tar, found):
    label = tar.member(4, "cls")
    tar.drop(label.offset, label.offset + 2 * BLOCK)
    problems = found()
    assert any(p.key == tar.keys[4] and "1024 bytes before" in p.what for p in problems)
    assert all(p.offset is not None for p in problems)


def test_file_empty(tar, found):
    tar.path.write_bytes(b"")
    assert one(found()) == (0, tar.keys[0], f"the tar is empty; {len(tar.keys)} samples are lost, this one first")


# And others.


def test_every_problem_is_found_not_only_the_first(storage, dataset, tar):
    first, third = int(tar.index.offset[1]), int(tar.index.offset[3])
    tar.flip(first + 200)
    tar.flip(third + 200)
    tar.patch(tar.member(5, "npy").offset, bytes(BLOCK))
    other = load_manifest(storage, dataset).of_split("held_out")[0]
    storage.delete(f"datasets/pets/shards/{other.sha256}.tar")
    storage.delete(f"{dataset.folder}/sources.parquet")
    named = {(p.shard, p.offset, p.key) for p in verify_dataset(storage, dataset).problems}
    assert named == {
        (tar.shard.sha256, first, tar.keys[1]),
        (tar.shard.sha256, third, tar.keys[3]),
        (tar.shard.sha256, tar.member(5, "npy").offset, tar.keys[5]),
        (other.sha256, None, None),
        (None, None, None),
    }


def test_padding_and_end_mark(tar, found):
    image = tar.member(4, "npy")
    at = image.offset_data + image.size + 3
    tar.flip(at)
    assert one(found())[:2] == (at, tar.keys[4])
    tar.flip(at)
    tar.cut(tar.shard.bytes - BLOCK)
    offset, key, what = one(found())
    assert (offset, key) == (tar.shard.bytes - BLOCK, None) and "no sample is hit" in what


def test_a_member_that_the_index_does_not_have(tar, found):
    whole = io.BytesIO()
    with tarfile.open(tar.path) as old, tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
        at = new.offset
        new.addfile(tarfile.TarInfo("stranger.npy"))
    tar.path.write_bytes(whole.getvalue())
    assert one(found()) == (at, "stranger", "stranger.npy is not in the index")


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_missing_file(tar, found, suffix):
    tar.path.with_suffix(f".{suffix}").unlink()
    assert one(found())[2] == f"the {'tar' if suffix == 'tar' else 'index'} is missing"


def test_a_damaged_index_is_told_from_a_damaged_tar(tar, found):
    path = tar.path.with_suffix(".parquet")
    path.write_bytes(path.read_bytes()[:-9])
    assert one(found())[2].startswith("the index is damaged")
    tar.patch(tar.member(4, "npy").offset, bytes(BLOCK))
    assert [problem.offset for problem in found()] == [None, tar.member(4, "npy").offset]  # without a key's help


def test_an_altered_manifest_is_named_and_its_shards_are_still_checked(storage, dataset, tar):
    path = f"{dataset.folder}/manifest.json"
    storage.write_json(path, {**storage.read_json(path), "class_counts": [1, 49]})
    tar.flip(int(tar.index.offset[4]))
    problems = verify_dataset(storage, dataset).problems
    assert [problem.key for problem in problems] == [None, tar.keys[4], None, None]
    assert "altered" in problems[0].what and "of class ant" in problems[2].what


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{", b'{"schema": 2}', b'{"schema": 1}', b"\xff", b"[" * 99999])
def test_a_manifest_of_any_shape_is_a_problem_and_no_more(storage, dataset, text):
    storage.write(f"{dataset.folder}/manifest.json", text)
    assert verify_dataset(storage, dataset).problems[0].what.startswith("manifest.json is damaged")


def test_a_table_of_removed_images_of_another_version(storage, data, folder, dataset):
    (folder / "ant/0003.png").unlink()
    shrunken = shard_images(storage, "pets", data(str(folder))).dataset
    storage.write(f"{shrunken.folder}/removed.parquet", storage.read(f"{dataset.folder}/removed.parquet"))
    assert [p.what for p in verify_dataset(storage, shrunken).problems] == [
        "removed.parquet is damaged: its sha256 is not the manifest's"
    ]
    storage.delete(f"{shrunken.folder}/removed.parquet")
    assert [p.what for p in verify_dataset(storage, shrunken).problems] == ["removed.parquet is missing"]


def test_no_change_of_any_byte_escapes_and_none_raises(storage, dataset):
    manifest, chance = load_manifest(storage, dataset), random.Random(0)
    paths = [f"datasets/pets/shards/{s.sha256}.{kind}" for s in manifest.shards for kind in ("tar", "parquet")]
    paths += [f"{dataset.folder}/removed.parquet", f"{dataset.folder}/manifest.json"]
    for trial in range(200):
        path = paths[trial % len(paths)]
        whole = storage.read(path)
        damaged, at = bytearray(whole), chance.randrange(len(whole))
        damaged[at : at + chance.choice([1, 1, 40, 3000])] = chance.randbytes(chance.choice([0, 1, 1, 40, 3000]))
        if path.endswith(".json") and b'"parent"' in whole[max(0, at - 90) : at + 90]:
            continue  # no part of what a digest names
        if bytes(damaged) == whole:
            continue
        storage.local_path(path).write_bytes(damaged)
        problems = verify_dataset(storage, dataset).problems
        storage.local_path(path).write_bytes(whole)
        assert problems or path.endswith(".json"), (path, at)  # white space in JSON is no content
        if "/shards/" in path:
            assert {problem.shard for problem in problems} == {Path(path).stem}
    assert verify_dataset(storage, dataset).ok


def test_a_dataset_is_named_by_its_name_or_a_digest(storage, data, folder, dataset):
    (folder / "ant/0003.png").unlink()
    newer = shard_images(storage, "pets", data(str(folder))).dataset
    assert resolve_dataset(storage, "pets") == newer != dataset
    for version in (dataset, newer):
        assert resolve_dataset(storage, f"pets@{version.digest[:8]}") == version
        assert resolve_dataset(storage, f"pets@{version.digest}") == version


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cats", "there is no dataset cats in .*; there are: pets"),
        ("", "there is no dataset ''"),
        ("../datasets/pets", "there is no dataset ../datasets/pets"),
        ("pets@", "pets@ is no version; there are: {digest}"),
        ("pets@zz", "pets@zz is no version; there are: {digest}"),
    ],
)
def test_a_dataset_that_is_not_there(storage, dataset, text, said):
    with pytest.raises(UserError, match=said.format(digest=dataset.digest[:12])):
        resolve_dataset(storage, text)


def test_where_there_is_no_dataset_at_all(storage):
    with pytest.raises(UserError, match="make one: ganline shard"):
        resolve_dataset(storage, "pets")
    assert not storage.local_path().exists()


def test_a_prefix_of_several_versions(storage, dataset):
    for end in "01":
        storage.write(f"datasets/pets/versions/{'e' * 63}{end}/manifest.json", b"{}")
    with pytest.raises(UserError, match=r"pets@eee begins several versions; there are: eeeeeeeeeeee, eeeeeeeeeeee$"):
        resolve_dataset(storage, "pets@eee")


@pytest.mark.parametrize("latest", [b"", b"[]", b"{}", b'{"digest": 3}'])
def test_a_damaged_pointer_to_the_latest_version(storage, dataset, latest):
    storage.write("datasets/pets/latest.json", latest)
    with pytest.raises(UserError, match=f"latest.json .* name a version: pets@{dataset.digest[:12]}"):
        resolve_dataset(storage, "pets")


def test_a_digest_that_is_the_latest_but_whose_manifest_is_gone_is_for_verify_to_say(storage, dataset):
    storage.delete(f"{dataset.folder}/manifest.json")
    assert resolve_dataset(storage, "pets") == dataset
    assert [problem.what for problem in verify_dataset(storage, dataset).problems] == ["manifest.json is missing"]


def test_rows_that_point_anywhere_do_no_harm(tar, found):
    """An index whose numbers are absurd, as a flipped bit may make them."""
    from pipeline.shards.index import write_index

    count = len(tar.keys)
    columns = {
        "key": tar.keys, "offset": [2**61, -1, *range(2, count)], "size": [2**40] * count, "crc32": [0] * count,
        "label": [-7] * count, "width": [0] * count, "height": [0] * count,
    }  # fmt: skip
    for offsets in (columns["offset"], [2**59, 1, *range(2, count)]):
        tar.path.with_suffix(".parquet").write_bytes(write_index({**columns, "offset": offsets}))
        assert found()[0].what.startswith("the index is damaged")
    assert np.iinfo(np.int64).max > 2**61
