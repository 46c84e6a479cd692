"""Damage to a tar made elsewhere is named: its URI, the byte, the sample's own key. The tars are of other writers."""

import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.shards.manifest import DatasetRef, index_path, load_manifest
from pipeline.shards.verify import Problem, verify_dataset

BLOCK = 512


@dataclass
class Tar:
    """Of 20 samples `000020` and so on, each a `.cls` member and then a `.png` one."""

    path: Path
    members: list[tarfile.TarInfo]

    def member(self, row: int, part: str) -> tarfile.TarInfo:
        return [member for member in self.members if member.name.endswith(part)][row]

    def header(self, row: int, part: str) -> int:
        return self.member(row, part).offset_data - BLOCK

    def key(self, row: int) -> str:
        return self.member(row, "png").name.partition(".")[0]

    def patch(self, offset: int, data: bytes) -> None:
        whole = bytearray(self.path.read_bytes())
        whole[offset : offset + len(data)] = data
        self.path.write_bytes(whole)

    def flip(self, offset: int) -> None:
        self.patch(offset, bytes([self.path.read_bytes()[offset] ^ 1]))

    def cut(self, length: int) -> None:
        self.path.write_bytes(self.path.read_bytes()[:length])

    def drop(self, member: tarfile.TarInfo) -> int:
        whole, end = self.path.read_bytes(), member.offset_data + -(-member.size // BLOCK) * BLOCK
        self.path.write_bytes(whole[: member.offset] + whole[end:])
        return end - member.offset


@pytest.fixture(params=["webdataset", "gnu"])  # with PAX headers before each member, and without
def tar(members, write, index, request) -> Tar:
    paths = [write(f"t{n}.tar", members(range(n * 20, n * 20 + 20)), request.param) for n in range(3)]
    index(*paths)
    with tarfile.open(paths[1]) as opened:
        return Tar(paths[1], opened.getmembers())


@pytest.fixture
def dataset(storage, tar) -> DatasetRef:
    return DatasetRef("tars", storage.read_json("datasets/tars/latest.json")["digest"])


@pytest.fixture
def found(storage, tar, dataset):
    def look() -> list[Problem]:
        problems = verify_dataset(storage, dataset).problems
        assert problems and {problem.shard for problem in problems} == {str(tar.path)}
        return problems

    return look


def one(problems: list[Problem]) -> tuple[int | None, str | None, str]:
    assert len(problems) == 1, problems
    return problems[0].offset, problems[0].key, problems[0].what


def test_a_sound_dataset_has_no_problem_and_each_tar_is_read_once(storage, tar, dataset):
    verification = verify_dataset(storage, dataset)
    assert verification.problems == [] and (verification.shards, verification.samples) == (3, 60)
    shards = load_manifest(storage, dataset).shards
    paths = [f"{dataset.folder}/manifest.json", f"{dataset.folder}/removed.parquet"]
    paths += [index_path("tars", shard) for shard in shards]
    tars = sum(path.stat().st_size for path in tar.path.parent.glob("t?.tar"))
    assert verification.bytes == sum(len(storage.read(path)) for path in paths) + tars


# The eight corruptions.


@pytest.mark.parametrize("part", ["cls", "png"])
def test_cut_at_a_member_boundary(tar, found, part):
    whole, at = tar.path.stat().st_size, tar.member(4, part).offset
    tar.cut(at)
    offset, key, what = one(found())
    assert (offset, key) == (at, tar.key(4)) and f"after {at} of {whole} bytes; 16 samples are lost" in what


def test_cut_inside_a_payload(tar, found):
    at = tar.member(4, "png").offset_data + 100
    tar.cut(at)
    assert one(found())[:2] == (at, tar.key(4))


@pytest.mark.parametrize("part", ["cls", "png"])
@pytest.mark.parametrize("row", [0, 4, -1])
def test_header_zeroed(tar, found, part, row):
    at = tar.header(row, part)
    tar.patch(at, bytes(BLOCK))
    assert one(found()) == (at, tar.key(row), "the header is zeroed")


def test_header_garbled(tar, found):
    at = tar.header(4, "png")
    tar.patch(at, random.Random(1).randbytes(BLOCK))
    assert one(found()) == (at, tar.key(4), "the header is damaged: its checksum is wrong")


def test_checksum_flipped(tar, found):
    at = tar.header(4, "png")
    tar.flip(at + 150)
    assert one(found()) == (at, tar.key(4), "the header is damaged: its checksum is wrong")


def test_first_header_of_a_member_flipped(tar, found):
    """Where the writer puts PAX headers before its members, the sample that they describe is the one named."""
    at = tar.member(4, "png").offset
    tar.flip(at + 150)
    assert one(found()) == (at, tar.key(4), "the header is damaged: its checksum is wrong")


def test_payload_bit_flipped(tar, found):
    member = tar.member(4, "png")
    tar.flip(member.offset_data + member.size // 2)
    offset, key, what = one(found())
    assert (offset, key) == (member.offset_data, tar.key(4)) and "crc32 is wrong, and it does not decode" in what


def test_payload_of_a_class_flipped(tar, found):
    member = tar.member(4, "cls")
    tar.flip(member.offset_data)
    offset, key, what = one(found())
    assert (offset, key) == (member.offset_data, tar.key(4)) and "in the tar and ant in the index" in what


def test_member_missing(tar, found):
    image, label = tar.member(4, "png"), tar.member(5, "png")
    gap = tar.drop(image)
    missing, moved = found()
    assert (missing.key, missing.what) == (tar.key(4), "the image is missing from the tar")
    assert missing.offset == image.offset_data - BLOCK
    assert (moved.offset, moved.key) == (label.offset_data - gap, tar.key(5))
    assert f"{gap} bytes before where the index has it; so with the 14 samples after it" in moved.what


def test_class_member_missing(tar, found):
    tar.drop(tar.member(-1, "cls"))
    problems = found()
    assert {problem.key for problem in problems} == {tar.key(-1)}
    assert "bytes before where the index has it" in problems[0].what


def test_file_empty(tar, found):
    tar.path.write_bytes(b"")
    assert one(found()) == (0, tar.key(0), "the tar is empty; 20 samples are lost, this one first")


# And others.


def test_file_gone(tar, found):
    tar.path.unlink()
    assert one(found()) == (None, None, "the tar is missing")


def test_damage_beside_the_samples(tar, found):
    tar.path.write_bytes(tar.path.read_bytes()[:-BLOCK] + b"!" * BLOCK)
    (problem,) = found()
    assert problem.key is None and problem.offset is not None and "no sample is hit" in problem.what


def test_an_index_that_is_damaged_is_told_by_its_side(storage, tar, dataset, found):
    shard = next(s for s in load_manifest(storage, dataset).of_split("train") if s.uri == str(tar.path))
    path = storage.local_path(index_path("tars", shard))
    path.write_bytes(path.read_bytes()[:-9])
    assert one(found())[2] == "the index of its train samples is damaged: its sha256 is not the manifest's"
    path.unlink()
    assert one(found())[2] == "the index of its train samples is missing"


def test_no_change_of_any_byte_of_a_tar_escapes_and_none_raises(storage, tar, dataset, found):
    chance, whole = random.Random(0), tar.path.read_bytes()
    for _ in range(40):
        damaged, at = bytearray(whole), chance.randrange(len(whole))
        damaged[at : at + chance.choice([1, 1, 40, 3000])] = chance.randbytes(chance.choice([0, 1, 1, 40, 3000]))
        if bytes(damaged) != whole:
            tar.path.write_bytes(damaged)
            found()
    tar.path.write_bytes(whole)
    assert verify_dataset(storage, dataset).ok


def test_a_header_belongs_to_the_sample_whose_members_are_around_it(storage, write, index, pixels, png):
    """Labels after images, and a file between samples that belongs to none."""
    made = {}
    for number in range(8):
        made |= {f"{number}.png": png(pixels(number)), f"{number}.cls": b"ant", f"LICENSE-{number}": b"free"}
    path = write("t.tar", made)
    dataset, whole = index(path).dataset, path.read_bytes()
    with tarfile.open(path) as tar:
        at = {member.name: member.offset for member in tar}
    for name, key, said in (("3.cls", "3", "the header is zeroed"), ("LICENSE-3", None, "zeroed; no sample is hit")):
        path.write_bytes(whole[: at[name]] + bytes(BLOCK) + whole[at[name] + BLOCK :])
        problem = one(verify_dataset(storage, dataset).problems)
        assert problem[:2] == (at[name], key) and problem[2].endswith(said)
