"""Images that were forgotten are nowhere any more, all others are as they were, and no interruption changes that."""

import io
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config import DataGate
from pipeline.errors import Unavailable, UserError
from pipeline.shards.alone import alone
from pipeline.shards.forget import forget, plan_forgetting
from pipeline.shards.forgotten import forgotten_keys, read_superseded, successor, that_showed
from pipeline.shards.manifest import DatasetRef, all_versions, latest_version, load_manifest
from pipeline.shards.on_ray import shard_images
from pipeline.shards.read import DatasetReader
from pipeline.shards.verify import verify_dataset
from pipeline.shards.write import content_key
from pipeline.storage import Storage
from pipeline.trust.gate import admit

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture
def source(make_tree, tmp_path) -> Path:
    return Path(make_tree(tmp_path / "images", {"ant": range(0, 12), "bee": range(12, 30)}))


@pytest.fixture
def ingest(storage, data, source) -> Callable[..., DatasetRef]:
    return lambda **keys: shard_images(storage, "pets", data(str(source), shard_images=5, **keys)).dataset


def key(source: Path, name: str) -> str:
    return content_key((source / name).read_bytes())


class NotOurs:
    """A lease that was lost."""

    def check(self, grace: float = 0.0) -> None:
        raise Unavailable("lost")


def do(storage: Storage, *keys: str):
    with alone(storage, "pets") as (_, held):
        return forget(storage, plan_forgetting(storage, "pets", set(keys)), held)


def images(storage: Storage, dataset: DatasetRef) -> dict[str, tuple[bytes, str]]:
    """Key to pixels and class, from the reader."""
    found, classes = {}, load_manifest(storage, dataset).classes
    for split in ("train", "held_out"):
        reader = DatasetReader(storage, dataset, split)
        places = [(shard, row) for shard, count in enumerate(reader.counts) for row in range(count)]
        shards, rows = (np.array(column, dtype=int) for column in zip(*places, strict=True))
        for name, pixels, label in zip(reader.keys(shards, rows), *reader.read(shards, rows), strict=True):
            found[name] = pixels.tobytes(), classes[label]
    return found


def sound(storage: Storage) -> bool:
    return all(verify_dataset(storage, version).ok for version in all_versions(storage, "pets"))


def is_anywhere(storage: Storage, pixels: np.ndarray) -> bool:
    """Raw shards hold the pixels as they are."""
    files = (path for path in storage.local_path().rglob("*") if path.is_file())
    return any(pixels.tobytes() in path.read_bytes() for path in files)


def rows(storage: Storage, dataset: DatasetRef, table: str) -> list[dict]:
    return pq.read_table(io.BytesIO(storage.read(f"{dataset.folder}/{table}.parquet"))).to_pylist()


def test_the_image_is_in_no_file_and_every_other_is_as_it_was(storage, source, ingest, pixels):
    gone = {key(source, "ant/0003.png"), key(source, "bee/0020.png")}
    old = ingest()
    before = images(storage, old)
    assert is_anywhere(storage, pixels(3)) and is_anywhere(storage, pixels(20))
    do(storage, *gone)

    assert not is_anywhere(storage, pixels(3)) and not is_anywhere(storage, pixels(20))
    assert is_anywhere(storage, pixels(4))
    (new,) = all_versions(storage, "pets")
    assert new == latest_version(storage, "pets") != old
    assert images(storage, new) == {name: image for name, image in before.items() if name not in gone}
    assert sound(storage)
    manifest = load_manifest(storage, new)
    assert (manifest.class_counts, sum(manifest.samples.values())) == ([11, 17], 28)
    assert {row["key"] for row in rows(storage, new, "sources")} == before.keys() - gone
    assert {row["shard"] for row in rows(storage, new, "sources")} == {shard.sha256 for shard in manifest.shards}
    stored = storage.local_path("datasets/pets/shards").iterdir()
    assert {path.stem for path in stored} == {shard.sha256 for shard in manifest.shards}


def test_looking_changes_nothing(storage, source, ingest):
    dataset = ingest()
    files = {path: path.stat().st_mtime_ns for path in storage.local_path().rglob("*")}
    plan = plan_forgetting(storage, "pets", {key(source, "ant/0003.png"), "0" * 32})
    assert len(plan.holders) == 1 and plan.versions.keys() == {dataset.digest}
    assert {path: path.stat().st_mtime_ns for path in storage.local_path().rglob("*")} == files


def test_nothing_is_deleted_by_one_that_is_not_alone_any_more(storage, source, ingest, pixels):
    old, gone = ingest(), key(source, "ant/0003.png")
    with pytest.raises(Unavailable):
        forget(storage, plan_forgetting(storage, "pets", {gone}), NotOurs())
    assert is_anywhere(storage, pixels(3)) and old in all_versions(storage, "pets") and sound(storage)
    do(storage, gone)
    assert not is_anywhere(storage, pixels(3)) and sound(storage)


def test_a_later_ingest_of_the_same_file_leaves_it_out_and_says_why(storage, source, ingest, make_tree, pixels):
    ingest()
    gone = key(source, "ant/0003.png")
    do(storage, gone)
    forgotten = all_versions(storage, "pets")
    shutil.copy(source / "ant/0003.png", source / "bee/copy.png")
    again = ingest()
    assert [again] == forgotten  # the same content, found again
    assert {(row["path"], row["reason"]) for row in rows(storage, again, "quarantine")} == {
        ("ant/0003.png", "forgotten"), ("bee/copy.png", "forgotten"),
    }  # fmt: skip
    make_tree(source, {"ant": [40]})
    assert gone not in images(storage, ingest())
    assert gone not in images(storage, ingest(background="black"))  # made anew
    assert not is_anywhere(storage, pixels(3)) and sound(storage)


def test_what_is_forgotten_before_it_was_ever_there_never_comes_in(storage, source, ingest):
    gone = key(source, "bee/0020.png")
    do(storage, gone)
    assert gone not in images(storage, ingest()) and len(images(storage, ingest())) == 29


@pytest.fixture
def history(storage, source, ingest, make_tree) -> list[DatasetRef]:
    """First; grown; another class; hidden; back again but later."""
    versions = [ingest()]
    make_tree(source, {"ant": [40, 41]})
    versions.append(ingest())
    (source / "ant/0003.png").rename(source / "bee/0003.png")
    versions.append(ingest())
    (source / "bee/0003.png").rename(source.parent / "kept.png")
    versions.append(ingest())
    make_tree(source, {"bee": [42]})
    versions.append(ingest())
    return versions


def test_every_version_of_a_history_is_published_again_without_it(storage, source, history, pixels):
    gone = content_key((source.parent / "kept.png").read_bytes())
    before = {version.digest: images(storage, version) for version in history}
    superseded = do(storage, gone)
    assert sound(storage) and not is_anywhere(storage, pixels(3))
    for version in history:
        new = DatasetRef("pets", successor(version.digest, superseded))
        expected = {name: image for name, image in before[version.digest].items() if name != gone}
        assert images(storage, new) == expected
    assert latest_version(storage, "pets").digest == successor(history[-1].digest, superseded)
    assert {version.digest for version in all_versions(storage, "pets")}.isdisjoint(superseded)
    # Three of them are the same now; none is its own parent, and every parent is there.
    parents = {version.digest: load_manifest(storage, version).parent for version in all_versions(storage, "pets")}
    assert len(parents) == 3
    assert all(parent in {None, *parents} and parent != digest for digest, parent in parents.items())
    assert that_showed({gone}, superseded) == {version.digest for version in history[:3]}


def test_a_version_that_showed_an_image_is_known_by_it_however_often_it_was_published_again(storage, source, ingest):
    first, one, two = ingest(), key(source, "ant/0003.png"), key(source, "bee/0020.png")
    do(storage, one)
    second = latest_version(storage, "pets")
    superseded = do(storage, two)
    assert that_showed({two}, superseded) == {first.digest, second.digest}
    assert that_showed({one}, superseded) == {first.digest}
    assert do(storage, one) == superseded  # nothing more to do
    assert forgotten_keys(storage, "pets") == {one, two}


def test_the_gate_goes_on_from_the_version_in_its_place(storage, source, ingest):
    admit(storage, ingest(), DataGate())
    do(storage, *(key(source, f"ant/{number:04}.png") for number in range(8)))  # more than data.gate.drop
    admit(storage, ingest(), DataGate())
    assert len(images(storage, ingest())) == 22
    do(storage, key(source, "bee/0020.png"))
    for number in range(23, 26):
        (source / f"bee/{number:04}.png").unlink()
    with pytest.raises(UserError, match="18 images are left of 21"):
        admit(storage, ingest(), DataGate())


def test_a_class_and_a_shard_may_lose_every_image(storage, source, ingest):
    ingest()
    do(storage, *(key(source, f"ant/{number:04}.png") for number in range(12)))
    version = latest_version(storage, "pets")
    assert load_manifest(storage, version).class_counts == [0, 18] and sound(storage)
    do(storage, *images(storage, version))
    assert load_manifest(storage, latest_version(storage, "pets")).shards == [] and sound(storage)


def test_shards_that_no_version_names_and_parts_go_too(storage, source, ingest, pixels):
    dataset = ingest()
    storage.delete_folder(dataset.folder)
    storage.delete("datasets/pets/latest.json")
    storage.write("datasets/pets/parts/some.part", pixels(3).tobytes())
    do(storage, key(source, "ant/0003.png"))
    assert not is_anywhere(storage, pixels(3)) and is_anywhere(storage, pixels(4))


class _Cut(BaseException):
    pass


class Dying(Storage):
    """Dies before its n-th change; a folder's deletion dies half-way too."""

    def __init__(self, uri: str, changes: int):
        super().__init__(uri)
        self.changes = changes

    def _count(self) -> None:
        self.changes -= 1
        if self.changes < 0:
            raise _Cut

    def write(self, path: str, data: bytes) -> None:
        self._count()
        super().write(path, data)

    def delete(self, path: str) -> None:
        self._count()
        super().delete(path)

    def delete_folder(self, path: str) -> None:
        for entry in list(self.list(path)):
            if not entry.is_folder:
                self.delete(entry.path)
        self._count()
        super().delete_folder(path)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_interrupted_before_any_change_it_leaves_whole_versions_and_ends_alike(storage, data, make_tree, tmp_path):
    source = Path(make_tree(tmp_path / "few", {"ant": range(0, 6), "bee": range(6, 14)}))
    gone = {key(source, "ant/0003.png"), key(source, "bee/0010.png")}
    for number in (3, 50):
        admit(storage, shard_images(storage, "pets", data(str(source), shard_images=9)).dataset, DataGate())
        make_tree(source, {"bee": [number]})

    def copy() -> Storage:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(storage.local_path(), tmp_path / "copy")
        return Storage(str(tmp_path / "copy"))

    whole = copy()
    do(whole, *gone)
    expected = tree(whole.local_path())
    for changes in itertools.count():
        cut = copy()
        try:
            do(Dying(cut.uri, changes), *gone)
            break
        except _Cut:
            assert sound(cut)
            assert latest_version(cut, "pets") in all_versions(cut, "pets")
            do(cut, *gone)
            assert tree(cut.local_path()) == expected
    assert changes > 20


def test_what_one_call_left_the_next_for_any_image_finishes(storage, source, ingest, pixels):
    ingest()
    with pytest.raises(_Cut):
        do(Dying(storage.uri, 3), key(source, "ant/0003.png"))
    assert is_anywhere(storage, pixels(3))
    do(storage, key(source, "bee/0020.png"))
    assert not is_anywhere(storage, pixels(3)) and not is_anywhere(storage, pixels(20))


def test_a_damaged_shard_is_told_of_before_anything_is_deleted(storage, source, ingest):
    dataset, gone = ingest(), key(source, "ant/0003.png")
    (shard,) = plan_forgetting(storage, "pets", {gone}).holders
    path = storage.local_path(f"datasets/pets/shards/{shard}.tar")
    whole = path.read_bytes()
    path.write_bytes(b"\1" * len(whole))
    with pytest.raises(UserError, match=f"shard {shard[:12]} of pets is damaged at image .*; `ganline verify pets`"):
        do(storage, gone)
    path.unlink()
    with pytest.raises(UserError, match=f"shard {shard[:12]} of pets has lost its tar"):
        do(storage, gone)
    assert latest_version(storage, "pets") == dataset and read_superseded(storage, "pets") == {}
    path.write_bytes(whole)
    do(storage, gone)
    assert sound(storage)


@pytest.mark.parametrize("text", ["", "ant/0003.png", "0" * 31, "G" * 32, "0" * 33])
def test_what_is_no_key_is_refused(storage, ingest, text):
    ingest()
    with pytest.raises(UserError, match="is no key of an image: 32 hex digits"):
        plan_forgetting(storage, "pets", {text})


@pytest.mark.parametrize("encoding", ["png", "webp"])
@pytest.mark.parametrize("labelled", [True, False])
def test_members_are_copied_byte_by_byte_in_every_encoding(storage, data, make_tree, tmp_path, encoding, labelled):
    classes = {"ant": range(6), "bee": range(6, 12)} if labelled else {".": range(12)}
    source = Path(make_tree(tmp_path / "other", classes))
    dataset = shard_images(storage, "pets", data(str(source), encoding=encoding, held_out=0)).dataset
    reader = DatasetReader(storage, dataset, "train")
    before = dict(zip(reader.keys(np.zeros(12, int), np.arange(12)), reader.read_all()[0], strict=True))
    do(storage, key(source, "ant/0003.png" if labelled else "0003.png"))
    reader = DatasetReader(storage, latest_version(storage, "pets"), "train")
    after = dict(zip(reader.keys(np.zeros(11, int), np.arange(11)), reader.read_all()[0], strict=True))
    assert len(after) == 11 and all(np.array_equal(before[name], image) for name, image in after.items())
    assert sound(storage)
